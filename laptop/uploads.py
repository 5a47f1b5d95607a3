"""Upload as imaging equipment does, and watch the results arrive.

The upload goes through a plain S3 client with the scanner's write-only credentials; everything after that is what the
stack does by itself on the store's event. Results are read from their topic, as any consumer would.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from eventing.kafka import make_consumer
from laptop import stack
from lungline.errors import StackError
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.client import s3_client

if TYPE_CHECKING:
    from confluent_kafka import Consumer

# The least that a person who waits would call stuck; a result takes some 20 ms.
PATIENCE_SECONDS = 60.0
# Between two uploads: fast enough to watch, slow enough that each is an upload of its own.
PACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Arrival:
    """A result as the sender saw it; `milliseconds` run from the start of the upload until its event was in hand."""

    key: str
    record: ResultRecord
    milliseconds: float


def upload_and_watch(
    pictures: Iterable[tuple[str, Callable[[], bytes]]], settings: Settings, on_arrival: Callable[[Arrival], None]
) -> list[Arrival]:
    """Upload (key, reader of the bytes) pairs to the running stack and wait for all results.

    Raises StackError, which says how many are missing, when results do not come.
    """
    client = _client(settings)
    consumer = _results(stack.connect(settings))
    watch = _Watch(consumer, on_arrival)
    try:
        for key, read in pictures:
            data = read()
            watch.sent[key] = time.monotonic()
            client.put_object(Bucket=settings.uploads_bucket, Key=key, Body=data)
            watch.look(PACE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while watch.sent and time.monotonic() < deadline:
            watch.look(0.2)
    finally:
        consumer.close()
    if watch.sent:
        raise StackError(
            f"{len(watch.sent)} uploads had no result after {PATIENCE_SECONDS:.0f} s; `lungline status` may say why."
        )
    return watch.arrivals


class _Watch:
    """Matches results with uploads as they come in."""

    def __init__(self, consumer: "Consumer", on_arrival: Callable[[Arrival], None]) -> None:
        self._consumer = consumer
        self._on_arrival = on_arrival
        self.sent: dict[str, float] = {}
        self.arrivals: list[Arrival] = []

    def look(self, seconds: float) -> None:
        """Take what arrives within some seconds; a repeated delivery of a result changes nothing."""
        for record in self._records(seconds):
            started = self.sent.pop(record.upload.key, None)
            if started is not None:
                arrival = Arrival(record.upload.key, record, (time.monotonic() - started) * 1000)
                self.arrivals.append(arrival)
                self._on_arrival(arrival)

    def _records(self, seconds: float) -> Iterator[ResultRecord]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is not None and not message.error() and (value := message.value()):
                yield ResultRecord.model_validate_json(value)


def _results(settings: Settings) -> "Consumer":
    """A consumer at the present end of the results topic; `assign` needs no group to form first."""
    from confluent_kafka import TopicPartition

    topic = settings.results_topic
    consumer = make_consumer(settings, "lungline-watch", {})
    numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = [
        TopicPartition(topic, number, consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1])
        for number in numbers
    ]
    consumer.assign(ends)
    return consumer


def _client(settings: Settings) -> Any:
    # Credentials that may upload and nothing else, where the store is ours; a store of others has its own.
    environment = stack.env(settings, scanner=settings.s3_endpoint is None)
    keys = (environment.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    access_key, secret_key = (SecretStr(key) if key else None for key in keys)
    return s3_client(environment["AWS_ENDPOINT_URL"], environment["AWS_DEFAULT_REGION"], access_key, secret_key)
