"""The demo: train and promote a model on the laptop stack, upload X-rays that training never saw, watch the results."""

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
from lungline.settings import Settings, TrainSettings
from pipelines.run import RunSummary, run_local

UPLOADS = 40
# Of the six that training takes by default: who watches gets a little less model, a minute sooner. Phantoms are fewer,
# and take all six.
EPOCHS = 4


class Console(Protocol):
    """Where the demo shows what happens."""

    def heading(self, text: str) -> None:
        """A stage of the demo begins."""

    def notice(self, text: str) -> None:
        """Something that a person must not miss."""

    def pipeline_event(self, event: Event) -> None:
        """Something happened in the pipeline."""

    def arrival(self, label: str, risk: float | None, truth: str, right: bool, milliseconds: float) -> None:
        """A result has arrived."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running stack, and when the demo began."""

    asked: Settings
    """As they were given."""
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
        """Whether the risk lies on the right side of the model's operating point; Unsure does not excuse."""
        record = self.arrival.record
        if record.probability is None:
            return False
        return (record.probability >= record.thresholds.operating) == bool(self.example.label)


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo has shown."""

    summary: RunSummary
    version: str
    """The version that served the uploads."""
    shown: list[PredictedUpload]
    uploads: int
    seconds: dict[str, float]
    addresses: dict[str, str] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        """For `--json`."""
        spent = [one.arrival.milliseconds for one in self.shown]
        data = self.summary.data
        return {
            "data": data.name,
            "synthetic": data.synthetic,
            "auc": self.summary.evaluation.auc,
            "version": self.version,
            "uploads": self.uploads,
            "results": len(self.shown),
            "correct": sum(one.right for one in self.shown),
            "unsure": sum(one.arrival.record.label == "Unsure" for one in self.shown),
            "latency_ms": {"p50": float(np.percentile(spent, 50)), "p99": float(np.percentile(spent, 99))},
            "seconds": self.seconds,
            "addresses": self.addresses,
        }


@contextmanager
def stage(settings: Settings, on_change: stack.OnChange) -> Generator[Stage]:
    """A running stack: one that is up is used and left up, else one is started and stopped at the end."""
    began = time.monotonic()
    ours = not stack.status(settings).running
    if ours:
        # Attached: however this process ends, the stack ends with it. MLflow starts beside the training.
        stack.up(settings, on_change, attached=True)
    try:
        yield Stage(settings, stack.connect(settings), began, time.monotonic() - began)
    finally:
        if ours:
            stack.down(settings)


def perform(stage: Stage, screen: Console) -> Report:
    """Train, promote, upload and watch. Raises PipelineFailed when no model came of the training."""
    settings = stage.settings
    dataset = open_dataset(settings.data, settings=settings)
    screen.heading("Train: one Kubeflow pipeline, run on this machine")
    # A model of the demo goes into service by its gate, whatever the policy is for others.
    training = settings.model_copy(update={"policy": "auto", "train": _hurried(settings.train, dataset)})
    summary = run_local(training, screen.pipeline_event)
    # A challenger that the gate stopped leaves the champion of an earlier demo in service, and the show goes on.
    version = summary.version if summary.champion else Registry(settings).champion()
    if version is None:
        raise PipelineFailed(summary.next)
    if not summary.champion:
        screen.notice(f"{summary.next} Version {version} goes on serving.")
    screen.heading("Upload: X-rays that training never saw, through a plain S3 client")
    # A prefix of its own for each run: the same picture under the same key is, rightly, the same upload.
    prefix = f"demo/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    examples = {f"{prefix}/{number:03d}/{Path(one.name).name}": one for number, one in enumerate(choose(dataset))}
    shown: list[PredictedUpload] = []

    def show(arrival: Arrival) -> None:
        one = PredictedUpload(examples[arrival.key], arrival)
        shown.append(one)
        truth = "Pneumonia" if one.example.label else "Normal"
        record = arrival.record
        screen.arrival(str(record.label), record.probability, truth, one.right, arrival.milliseconds)

    pictures = ((key, partial(dataset.read, example)) for key, example in examples.items())
    upload_and_watch(pictures, stage.asked, show)
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
    return Report(summary, version, shown, len(examples), seconds, addresses)


def _hurried(train: TrainSettings, dataset: Dataset) -> TrainSettings:
    """Fewer epochs, unless somebody has said how many."""
    if dataset.synthetic or "epochs" in train.model_fields_set:
        return train
    return train.model_copy(update={"epochs": EPOCHS})


def rest() -> None:
    """Wait for Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def choose(dataset: Dataset, count: int = UPLOADS) -> list[Example]:
    """Examples of the test split, as many of each class as there are, spread over the split, classes in turn."""
    by_class = [[example for example in dataset.of("test") if example.label == label] for label in (0, 1)]
    spread = [_spread(examples, count // 2) for examples in by_class]
    return [example for pair in zip_longest(*spread) for example in pair if example]


def _spread(examples: list[Example], count: int) -> list[Example]:
    if len(examples) <= count:
        return examples
    return [examples[index * len(examples) // count] for index in range(count)]
