"""The demo: train and promote a model on the laptop stack, upload X-rays of the test split, follow the results."""

import contextlib
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from components.step_events import Event
from laptop import stack
from laptop.uploads import Arrival, upload_and_watch
from lungline.datasets.opening import Dataset, Example, open_dataset
from lungline.errors import PipelineFailed
from lungline.registry.versions import Registry
from lungline.results.records import ResultRecord
from lungline.settings import Settings, TrainSettings
from pipelines.run import RunSummary, run_local

UPLOADS = 40
# Instead of the default six: a slightly weaker model, a minute sooner. Phantoms are fewer, and train for all six.
EPOCHS = 4


class Console(Protocol):
    """What the demo shows its progress on."""

    def heading(self, text: str) -> None:
        """Announce a stage of the demo."""

    def notice(self, text: str) -> None:
        """Show something a person must not miss."""

    def pipeline_event(self, event: Event) -> None:
        """Show an event of the pipeline."""

    def arrival(self, record: ResultRecord, truth: str, right: bool, milliseconds: float) -> None:
        """Show a result that has arrived."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running stack, and when the demo began."""

    given: Settings
    """As the user gave them."""
    settings: Settings
    """Completed with the addresses and credentials of the stack."""
    began: float
    setup_seconds: float


@dataclass(frozen=True, slots=True)
class PredictedUpload:
    """An upload of the demo with its truth and its result."""

    example: Example
    arrival: Arrival

    @property
    def right(self) -> bool:
        """Whether the risk is on the right side of the model's operating point, also when the label is Unsure."""
        record = self.arrival.record
        if record.probability is None:
            return False
        return (record.probability >= record.thresholds.operating) == bool(self.example.label)


@dataclass(frozen=True, slots=True)
class Report:
    """The results of the demo."""

    summary: RunSummary
    version: str
    """The version that served the uploads."""
    predicted: list[PredictedUpload]
    uploads: int
    seconds: dict[str, float]
    addresses: dict[str, str] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        """For `--json`."""
        latencies = [upload.arrival.milliseconds for upload in self.predicted]
        data = self.summary.data
        return {
            "data": data.name,
            "synthetic": data.synthetic,
            "auc": self.summary.evaluation.auc,
            "version": self.version,
            "uploads": self.uploads,
            "results": len(self.predicted),
            "correct": sum(upload.right for upload in self.predicted),
            "unsure": sum(upload.arrival.record.label == "Unsure" for upload in self.predicted),
            "latency_ms": {"p50": float(np.percentile(latencies, 50)), "p99": float(np.percentile(latencies, 99))},
            "seconds": self.seconds,
            "addresses": self.addresses,
        }


@contextmanager
def stage(settings: Settings, on_change: stack.OnChange) -> Generator[Stage]:
    """A running stack: the one that is up, or a new one that is stopped at the end."""
    began = time.monotonic()
    is_ours = not stack.status(settings).running
    if is_ours:
        # Attached: however this process ends, the stack ends with it. MLflow starts beside the training.
        stack.up(settings, on_change, attached=True)
    try:
        yield Stage(settings, stack.connect(settings), began, time.monotonic() - began)
    finally:
        if is_ours:
            stack.down(settings)


def perform(stage: Stage, console: Console) -> Report:
    """Train, promote, upload and follow the results. Raises PipelineFailed when no model serves after the training."""
    settings = stage.settings
    dataset = open_dataset(settings.data, settings=settings)
    console.heading("Train: one Kubeflow pipeline, run on this machine")
    # In the demo the gate alone promotes, whatever the policy is.
    training = settings.model_copy(update={"policy": "auto", "train": _with_demo_epochs(settings.train, dataset)})
    summary = run_local(training, console.pipeline_event)
    # When the gate rejects the challenger, the champion of an earlier demo serves the uploads.
    version = summary.version if summary.champion else Registry(settings).champion()
    if version is None:
        raise PipelineFailed(summary.next)
    if not summary.champion:
        console.notice(f"{summary.next} Version {version} still serves.")
    console.heading("Upload: X-rays that training never saw, with a scanner's credentials")
    # Each run has its own prefix, because the same image under the same key is the same upload.
    prefix = f"demo/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    examples = {
        f"{prefix}/{number:03d}/{Path(example.name).name}": example for number, example in enumerate(choose(dataset))
    }
    predicted: list[PredictedUpload] = []

    def show(arrival: Arrival) -> None:
        upload = PredictedUpload(examples[arrival.key], arrival)
        predicted.append(upload)
        truth = dataset.task.labels[min(dataset.task.present(upload.example.label))]
        console.arrival(arrival.record, truth, upload.right, arrival.milliseconds)

    images = ((key, partial(dataset.read, example)) for key, example in examples.items())
    upload_and_watch(images, stage.given, show)
    seconds = {
        "setup": round(stage.setup_seconds, 1),
        "train": round(summary.seconds["total"], 1),
        "total": round(time.monotonic() - stage.began, 1),
    }
    addresses = {
        "MLflow": summary.mlflow_url,
        "Predictor's API": f"{stage.settings.predictor_uri}/docs",
        "Report": summary.report,
        "Worklist": stack.wait(settings, "worklist").address or "",
    }
    return Report(summary, version, predicted, len(examples), seconds, addresses)


def _with_demo_epochs(train: TrainSettings, dataset: Dataset) -> TrainSettings:
    """Fewer epochs, unless the user has set their number."""
    if dataset.synthetic or "epochs" in train.model_fields_set:
        return train
    return train.model_copy(update={"epochs": EPOCHS})


def wait_for_interrupt() -> None:
    """Wait for Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def choose(dataset: Dataset, count: int = UPLOADS) -> list[Example]:
    """`count` examples of the test split, or all: half of them of each class, in turn, spread over the split."""
    by_class = [[example for example in dataset.of("test") if bool(example.label) == sick] for sick in (False, True)]
    spread = [_spread(examples, count // 2) for examples in by_class]
    return [example for pair in zip_longest(*spread) for example in pair if example]


def _spread(examples: list[Example], count: int) -> list[Example]:
    if len(examples) <= count:
        return examples
    return [examples[index * len(examples) // count] for index in range(count)]
