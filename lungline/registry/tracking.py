"""Training runs in MLflow: shown live while the server answers, and completed later where it did not.

What a run did is kept in a Record beside the model package. MLflow shows it: a server that starts late, fails, or is
new and empty costs no training, because `settle` writes whatever it lacks from the record.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false
import dataclasses
import json
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import LunglineError
from lungline.package.card import CodeFacts, DataFacts, GateFacts
from lungline.registry.mlflow_client import connect, translated
from lungline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

START_SECONDS = 120
"""How long a pipeline waits for a server that is starting: on a busy laptop that takes 35 s."""

RECORD = "record.json"

GATE, VERDICT, LOWERED = "gate", "verdict", "gate_lowered"
"""Tags of a run: whether it passed the gate, the verdict, and the limits that were lowered for it."""


def gate_facts(tags: Mapping[str, str]) -> GateFacts | None:
    """The gate's verdict in the tags of a run; None for a run without one."""
    if GATE not in tags:
        return None
    lowered = tuple(filter(None, tags.get(LOWERED, "").split("; ")))
    return GateFacts(passed=tags[GATE] == "passed", sentence=tags.get(VERDICT, ""), lowered=lowered)


class RunRecord(BaseModel):
    """What a training run was asked, what it worked on, and what came of each epoch."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, description="Finds the run in MLflow again.")
    name: str
    started: datetime = Field(default_factory=lambda: datetime.now(UTC))
    params: dict[str, str]
    data: DataFacts
    code: CodeFacts
    epochs: tuple[dict[str, float], ...] = ()

    @classmethod
    def load(cls, folder: Path) -> "RunRecord":
        """The record that was saved in a folder."""
        return cls.model_validate_json((folder / RECORD).read_bytes())

    def save(self, folder: Path) -> None:
        """Save as record.json in a folder."""
        (folder / RECORD).write_text(self.model_dump_json(indent=2) + "\n")


def new_record(settings: Settings, data: DataFacts, code: CodeFacts) -> RunRecord:
    """The record of a run that is about to start."""
    blocks = {"model": settings.model, "train": settings.train}
    params = {
        f"{block}.{name}": str(value) for block, values in blocks.items() for name, value in values.model_dump().items()
    }
    params |= {"data": data.name, "data.digest": data.digest, "data.feedback": str(data.feedback)}
    params |= {f"library.{name}": number for name, number in code.packages.items()}
    return RunRecord(name=f"{data.name} seed {settings.train.seed}", params=params, data=data, code=code)


class Recorder:
    """Shows a run in MLflow while it goes on, from a thread of its own: training never waits for the server."""

    def __init__(self, settings: Settings, record: RunRecord) -> None:
        self.record = record
        self._settings = settings
        self._epochs: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._send, name="mlflow-recorder", daemon=True)
        self._thread.start()

    def epoch(self, epoch: Any) -> None:
        """Add an epoch: a dataclass of numbers with `number` and `seconds`."""
        values = {name: float(value) for name, value in dataclasses.asdict(epoch).items()}
        self.record = self.record.model_copy(update={"epochs": (*self.record.epochs, values)})
        self._epochs.put(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._failed = kind is not None
        self._closing.set()
        self._epochs.put(None)
        self._thread.join()

    def _send(self) -> None:
        try:
            with translated(self._settings):
                client = connect(self._settings, START_SECONDS, self._closing.is_set)
                run_id = _create(client, self._settings, self.record)
                while (values := self._epochs.get()) is not None:
                    _log_epochs(client, run_id, self.record.started, values)
                if self._failed:
                    client.set_terminated(run_id, "FAILED")
        except LunglineError:
            return  # settle() writes the run later, and tells when it cannot


def settle(settings: Settings, folder: Path) -> str:
    """The id of the MLflow run of a saved record, with all that was recorded; waits for MLflow.

    The other files of the folder become artifacts of the run. Raises RegistryUnavailable.
    """
    record = RunRecord.load(folder)
    with translated(settings):
        client = connect(settings, START_SECONDS)
        run_id, complete = _find(client, settings, record)
        if complete and run_id:
            return run_id
        run_id = run_id or _create(client, settings, record)
        # Points that are there already are the same to the millisecond: MLflow keeps them once.
        _log_epochs(client, run_id, record.started, *record.epochs)
        for path in sorted(folder.iterdir()):
            client.log_artifact(run_id, str(path), "model" if path.suffix == ".keras" else None)
        client.set_terminated(run_id)
    return run_id


def note(
    settings: Settings,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    artifacts: Mapping[str, Path] | None = None,
) -> None:
    """Add metrics, tags, and files or folders (by artifact folder) to a run."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    with translated(settings):
        client = connect(settings)
        entries = [Metric(name, value, now, 0) for name, value in (metrics or {}).items()]
        client.log_batch(run_id, metrics=entries, tags=[RunTag(name, value) for name, value in (tags or {}).items()])
        for place, path in (artifacts or {}).items():
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), place or None)


def fetch_artifacts(settings: Settings, run_id: str, place: str, folder: Path) -> Path | None:
    """Download the artifact folder `place` of a run into a folder; None where the run has none, or is gone."""
    from mlflow.exceptions import MlflowException

    with translated(settings):
        client = connect(settings)
        try:
            if client.list_artifacts(run_id, place):
                return Path(client.download_artifacts(run_id, place, str(folder)))
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None


def run_url(settings: Settings, run_id: str) -> str:
    """The page of a run."""
    with translated(settings):
        experiment = connect(settings).get_run(run_id).info.experiment_id
    return f"{settings.mlflow_uri}/#/experiments/{experiment}/runs/{run_id}"


def _create(client: "MlflowClient", settings: Settings, record: RunRecord) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    tags = {
        "record_id": record.id,
        "data": record.data.name,
        "data_digest": record.data.digest,
        "feedback_labels": str(record.data.feedback),
        "synthetic": str(record.data.synthetic).lower(),
        "code_version": record.code.version,
        "code_dirty": str(record.code.dirty).lower(),
    }
    if record.code.commit:
        tags["mlflow.source.git.commit"] = record.code.commit
    started = int(record.started.timestamp() * 1000)
    run = client.create_run(_experiment(client, settings), started, tags, run_name=record.name)
    run_id: str = run.info.run_id
    client.log_batch(run_id, params=[Param(name, value) for name, value in record.params.items()])
    # MLflow keeps 36 characters of a digest; the whole of it is in the tag.
    profile = json.dumps(record.data.counts)
    data = Dataset(record.data.name, record.data.digest[:32], "lungline", record.data.name, profile=profile)
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    return run_id


def _experiment(client: "MlflowClient", settings: Settings) -> str:
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(settings.experiment):
        return experiment.experiment_id
    try:
        return client.create_experiment(settings.experiment)
    except MlflowException as exc:
        # Another run made it at the same moment.
        if exc.error_code != "RESOURCE_ALREADY_EXISTS" or not (
            experiment := client.get_experiment_by_name(settings.experiment)
        ):
            raise
        return experiment.experiment_id


def _find(client: "MlflowClient", settings: Settings, record: RunRecord) -> tuple[str | None, bool]:
    """The record's run on this server, and whether it is complete."""
    runs = client.search_runs([_experiment(client, settings)], f"tags.record_id = '{record.id}'", max_results=1)
    return (runs[0].info.run_id, runs[0].info.status == "FINISHED") if runs else (None, False)


def _log_epochs(client: "MlflowClient", run_id: str, started: datetime, *epochs: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int((started.timestamp() + values["seconds"]) * 1000), int(values["number"]))
        for values in epochs
        for name, value in values.items()
        if name not in {"number", "of", "seconds"}
    ]
    # MLflow takes at most 1,000 metrics in one call.
    for at in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics[at : at + 1000])


TAG = "cause"


def name_cause(settings: Settings, run_id: str, cause: str) -> None:
    """Write the cause, a sentence, into a run. Raises RegistryUnavailable when MLflow does not answer."""
    with translated(settings):
        connect(settings).set_tag(run_id, TAG, cause)
