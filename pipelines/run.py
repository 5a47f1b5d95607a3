"""Run the training pipeline on this machine and report its events."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from components.step_events import Event, read
from lungline.datasets.dataset import printable
from lungline.datasets.opening import open_dataset
from lungline.errors import DataError, PipelineFailed
from lungline.evaluation.gate import GateVerdict
from lungline.evaluation.metrics import Evaluation
from lungline.registry.provenance import code_version
from lungline.settings import PREFIX, Settings, setting_names, variable
from lungline.task.overrides import task_option
from lungline.task.reading import packaged
from pipelines.arguments import STEPS, arguments, pipeline_name

GRACE_SECONDS = 5


class DataSummary(BaseModel):
    """The data set of a run."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    synthetic: bool
    notice: str | None


class RunSummary(BaseModel):
    """The outcome of a pipeline run; a model that does not pass the gate is a result, not an error."""

    model_config = ConfigDict(frozen=True)

    run: str = Field(description="Name of the pipeline run.")
    data: DataSummary
    evaluation: Evaluation
    verdict: GateVerdict
    mlflow_run: str
    mlflow_url: str
    version: str | None = Field(default=None, description="The registered version; None when the gate did not pass.")
    champion: bool = Field(default=False, description="Whether that version is in service now.")
    next: str = Field(description="One sentence: the state of the version, or what to do next.")
    reused: tuple[str, ...] = Field(description="Cached steps: nothing that they depend on has changed.")
    seconds: dict[str, float] = Field(description="Of each step that ran, and `total`.")
    report: str
    log: str


def run_local(
    settings: Settings, on_event: Callable[[Event], None] = lambda _: None, *, reuse: bool = True
) -> RunSummary:
    """Run the pipeline with kfp.local; `on_event` gets each event as it happens.

    Steps whose data, settings and code have not changed are taken from the cache unless `reuse` is False. Raises
    DataError for data that cannot be opened, and PipelineFailed with the step and its cause.
    """
    started = time.monotonic()
    for path in (settings.data, settings.feedback or ""):
        if printable(path) != path:  # the pipeline's parameters are UTF-8
            raise DataError(f"The path {printable(path)} is not UTF-8: rename the data, or link to them (ln -s).")
    dataset = open_dataset(settings.data, settings=settings, feedback=settings.feedback)
    if dataset.notice:
        on_event(Event(step="data", kind="progress", text=dataset.notice))
    on_event(Event(step="data", kind="done", text=f"{len(dataset.examples)} images of {dataset.name}"))
    parameters = arguments(settings, data=settings.data, data_digest=dataset.digest, code_version=code_version())
    folder = settings.home.absolute() / "pipeline"
    run = folder / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S-%f}"
    run.mkdir(parents=True)
    events = _EventReader(on_event)
    place = {"folder": str(folder), "run": str(run), "name": pipeline_name(settings)}
    request = {**place, "reuse": reuse, "arguments": parameters}
    log = run / "pipeline.log"
    with log.open("w") as sink, _running(request, _environment(settings, run)) as process:
        for line in cast("IO[str]", process.stdout):
            sink.write(line)
            events.read_line(line)
        code = process.wait()
    shutil.rmtree(run / "tmp")
    if code:
        raise PipelineFailed(events.failure(log))
    return events.summary(settings, log, time.monotonic() - started)


class _EventReader:
    """Reads events from a run's output, line by line."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._last: dict[str, Event] = {}
        self._pages: dict[str, str] = {}
        self._line = ""

    def read_line(self, line: str) -> None:
        event = read(line)
        if event is None:
            self._line = line.strip() or self._line
            return
        if event.kind == "started":
            # kfp.local starts no process for a cached step and prints nothing that a program could read.
            for step in STEPS[: STEPS.index(event.step)]:
                if step not in self._last:
                    self._emit(Event(step=step, kind="reused", text="nothing that it depends on has changed"))
        if page := event.values.get("page"):
            self._pages[event.step] = page
        self._emit(event)

    def _emit(self, event: Event) -> None:
        self._last[event.step] = event
        self._on_event(event)

    def failure(self, log: Path) -> str:
        """One sentence on why the run failed."""
        for step, event in self._last.items():
            if event.kind == "failed":
                place = f" See {self._pages.get(step, log)}." if not event.ours or step in self._pages else ""
                return f"Step {step} failed: {event.text}{place}"
            if event.kind in {"started", "progress"}:
                return f"Step {step} ended without an error message, perhaps for lack of memory; see {log}."
        return f"The pipeline did not start ({self._line}); see {log}."

    def summary(self, settings: Settings, log: Path, total: float) -> RunSummary:
        """The summary of a successful run."""
        values = self._last["gate"].values
        registered, promoted = self._last.get("register"), self._last.get("promote")
        version = registered.values["version"] if registered else None
        seconds = {step: event.seconds for step, event in self._last.items() if event.seconds is not None}
        return RunSummary(
            run=values["pipeline_run"],
            data=values["data"],
            evaluation=values["evaluation"],
            verdict=values["verdict"],
            mlflow_run=values["mlflow_run"],
            mlflow_url=values["mlflow_url"],
            version=version,
            champion=promoted is not None,
            next=promoted.text if promoted else _next(settings, version, self._last["gate"].text),
            reused=tuple(step for step, event in self._last.items() if event.kind == "reused"),
            seconds=seconds | {"total": total},
            report=values["report"],
            log=str(log),
        )


def _next(settings: Settings, version: str | None, verdict: str) -> str:
    if version is None:
        return f"Nothing was registered: {verdict}"
    return (
        f"Version {version} of {settings.model_name} is the challenger; "
        f"`lungline promote {version}{task_option(settings)} --by NAME --reason TEXT` puts it into service."
    )


@contextmanager
def _running(request: dict[str, Any], environment: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """The process of `pipelines.local`; it and its steps end with this context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
        # A process group of its own: Ctrl-C reaches only us, and all steps end together.
        start_new_session=True,
    )
    try:
        # Left open: end of file tells the child that this process is gone.
        stdin = cast("IO[str]", process.stdin)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            break
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _environment(settings: Settings, run: Path) -> dict[str, str]:
    """The environment of the steps: exactly these settings, secrets included."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # Each step leaves its source in the temporary folder, which is removed with the run.
    temporary = run / "tmp"
    temporary.mkdir()
    quiet = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), "TF_CPP_MIN_LOG_LEVEL": "2"}
    # KFP's runner, its steps and we read one another in UTF-8, whatever the terminal can show.
    encoding = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    return inherited | quiet | encoding | {variable(name): value for name, value in _leaves(settings)}


def _leaves(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in setting_names():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, Path) or (name == "task" and value not in packaged()):
            # Steps run in another working directory.
            value = Path(value).absolute()
        if value is not None:
            yield name, json.dumps(value) if isinstance(value, bool | list | tuple | dict) else str(value)
