"""The demo: train and promote a model on the laptop stack, upload X-rays that training never saw, watch the results.

The uploads go through a plain S3 client with the scanner's write-only credentials, as imaging equipment would send
them; everything after that is what the stack does by itself on the store's event.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from laptop import stack
from lungline.dataset import Dataset, Example, open_dataset
from lungline.errors import PipelineFailed, StackError
from lungline.progress import Event
from lungline.results import ResultRecord
from lungline.settings import Settings
from pipelines.run import RunSummary, run_local

if TYPE_CHECKING:
    from confluent_kafka import Consumer

UPLOADS = 40
# The least that a person who waits would call stuck; a result takes some 20 ms.
PATIENCE_SECONDS = 60.0


class Screen(Protocol):
    """Where the demo shows what happens."""

    def heading(self, text: str) -> None:
        """A part of the demo begins."""

    def pipeline_event(self, event: Event) -> None:
        """Something happened in the pipeline."""

    def arrival(self, label: str, risk: float | None, truth: str, right: bool, milliseconds: float) -> None:
        """A result has arrived."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running stack, and when the demo began."""

    settings: Settings
    began: float
    setup_seconds: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A result as the demo saw it; `milliseconds` run from the start of the upload until its event was in our hands."""

    example: Example
    record: ResultRecord
    milliseconds: float

    @property
    def right(self) -> bool:
        """Whether the risk lies on the right side of the model's operating point; Unsure does not excuse."""
        if self.record.probability is None:
            return False
        return (self.record.probability >= self.record.thresholds.operating) == bool(self.example.label)


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo has shown."""

    summary: RunSummary
    arrivals: list[Arrival]
    uploads: int
    seconds: dict[str, float]
    addresses: dict[str, str] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        """For `--json`."""
        spent = [arrival.milliseconds for arrival in self.arrivals]
        data = self.summary.data
        return {
            "data": data.name,
            "synthetic": data.synthetic,
            "auc": self.summary.evaluation.auc,
            "version": self.summary.version,
            "uploads": self.uploads,
            "results": len(self.arrivals),
            "correct": sum(arrival.right for arrival in self.arrivals),
            "unsure": sum(arrival.record.label == "Unsure" for arrival in self.arrivals),
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
        yield Stage(stack.connect(settings), began, time.monotonic() - began)
    finally:
        if ours:
            stack.down(settings)


def perform(stage: Stage, screen: Screen) -> Report:
    """Train, promote, upload and watch. Raises PipelineFailed when no model came of the training."""
    settings = stage.settings
    screen.heading("Train: one Kubeflow pipeline, run on this machine")
    # A model of the demo goes into service by its gate, whatever the policy is for others.
    summary = run_local(settings.model_copy(update={"policy": "auto"}), screen.pipeline_event)
    if not summary.champion:
        raise PipelineFailed(summary.next)
    screen.heading("Upload: X-rays that training never saw, through a plain S3 client")
    dataset = open_dataset(settings.data, settings=settings)
    examples = choose(dataset)

    def show(arrival: Arrival) -> None:
        record, example = arrival.record, arrival.example
        truth = "Pneumonia" if example.label else "Normal"
        screen.arrival(str(record.label), record.probability, truth, arrival.right, arrival.milliseconds)

    arrivals = upload_and_watch(dataset, examples, settings, show)
    seconds = {
        "setup": round(stage.setup_seconds, 1),
        "train": round(summary.seconds["total"], 1),
        "total": round(time.monotonic() - stage.began, 1),
    }
    addresses = {"MLflow": summary.mlflow_url, "Predictor's API": f"{settings.predictor_uri}/docs"}
    return Report(summary, arrivals, len(examples), seconds, addresses | {"Report": summary.report})


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


def upload_and_watch(
    dataset: Dataset, examples: list[Example], settings: Settings, on_arrival: Callable[[Arrival], None]
) -> list[Arrival]:
    """Upload each example and wait for all results.

    Raises StackError, which says how many are missing, when results do not come.
    """
    # A prefix of its own for each run: the same picture under the same key is, rightly, the same upload.
    prefix = f"demo/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    client = _scanner_client(settings)
    consumer = _results(settings)
    watch = _Watch(consumer, on_arrival)
    try:
        for number, example in enumerate(examples):
            key = f"{prefix}/{number:03d}/{example.name.rsplit('/', 1)[-1]}"
            data = dataset.read(example)
            watch.sent[key] = (example, time.monotonic())
            client.put_object(Bucket=settings.uploads_bucket, Key=key, Body=data)
            watch.look(0.05)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while watch.sent and time.monotonic() < deadline:
            watch.look(0.2)
    finally:
        consumer.close()
    if watch.sent:
        missing = f"{len(watch.sent)} of {len(examples)} uploads"
        raise StackError(f"{missing} had no result after {PATIENCE_SECONDS:.0f} s; `lungline status` may say why.")
    return watch.arrivals


class _Watch:
    """Matches results with uploads as they come in."""

    def __init__(self, consumer: "Consumer", on_arrival: Callable[[Arrival], None]) -> None:
        self._consumer = consumer
        self._on_arrival = on_arrival
        self.sent: dict[str, tuple[Example, float]] = {}
        self.arrivals: list[Arrival] = []

    def look(self, seconds: float) -> None:
        """Take what arrives within some seconds; a repeated delivery of a result changes nothing."""
        for record in self._records(seconds):
            if found := self.sent.pop(record.upload.key, None):
                example, started = found
                self.arrivals.append(Arrival(example, record, (time.monotonic() - started) * 1000))
                self._on_arrival(self.arrivals[-1])

    def _records(self, seconds: float) -> Iterator[ResultRecord]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is not None and not message.error() and (value := message.value()):
                yield ResultRecord.model_validate_json(value)


def _results(settings: Settings) -> "Consumer":
    """A consumer at the present end of the results topic; `assign` needs no group to form first."""
    from confluent_kafka import Consumer, TopicPartition

    topic = settings.results_topic
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "lungline-demo", "enable.auto.commit": False}
    )
    numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = [
        TopicPartition(topic, number, consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1])
        for number in numbers
    ]
    consumer.assign(ends)
    return consumer


def _scanner_client(settings: Settings) -> Any:
    import boto3

    environment = stack.env(settings, scanner=True)
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
