"""Upload as imaging equipment does, and follow the results as they arrive.

The upload is an S3 request with the scanner's write-only credentials; the stack does the rest when
the store's event arrives. Results are read from their Kafka topic, as by any consumer, and refusals from the topic of
dead letters.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError

from eventing.kafka import make_consumer, unavailable
from eventing.kafka_errors import ConnectionErrors
from eventing.offsets import assign_end
from laptop import stack
from laptop.home.disk import disk_fault
from lungline.errors import EventMalformed, LunglineError, StackError
from lungline.events.uploads import parse
from lungline.results import record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

# A result takes some 20 ms; after this long something is wrong.
PATIENCE_SECONDS = 60.0
# Between two uploads, so that each arrives on its own.
PACE_SECONDS = 0.05
STATUS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A result as its sender sees it; `milliseconds` run from the start of the upload to the arrival of its event."""

    key: str
    record: ResultRecord
    milliseconds: float


def upload_and_watch(
    images: Iterable[tuple[str, Callable[[], bytes]]],
    settings: Settings,
    on_arrival: Callable[[Arrival], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> list[Arrival]:
    """Upload images, given as keys and functions that read their bytes, and wait for all results.

    A refused image has a result too, with the outcome `refused`. Raises StackError, which says how many results are
    missing and why, when some do not come.
    """
    sender = scanner(settings)
    try:
        watch = _Watch(stack.connect(settings), on_arrival)
    except LunglineError as exc:
        require_disk(settings, exc)
        raise
    try:
        for key, read in images:
            data = read()
            watch.sent[key] = time.monotonic()
            sender.put(settings.uploads_bucket, key, data)
            watch.poll(PACE_SECONDS)
        deadline = time.monotonic() + patience_seconds
        while watch.sent and time.monotonic() < deadline:
            watch.poll(STATUS_SECONDS)
            if watch.sent:
                require_disk(settings)
                require_model(settings, len(watch.sent))
    except LunglineError as exc:
        require_disk(settings, exc)
        raise
    finally:
        watch.close()
        sender.close()
    if watch.sent:
        missing = count(len(watch.sent), "upload")
        raise StackError(f"{missing} had no result after {patience_seconds:.0f} s; `lungline status` may say why.")
    if watch.failures:
        first = next(iter(watch.failures.values()))
        raise StackError(f"{count(len(watch.failures), 'upload')} could not be processed: {first}")
    return watch.arrivals


def require_disk(settings: Settings, cause: LunglineError | None = None) -> None:
    """Raise StackError when the stack's disk is full, which its services report in many ways."""
    if fault := disk_fault(settings.home):
        raise StackError(fault) from cause


def require_model(settings: Settings, waiting: int) -> None:
    """Stop waiting when no model serves: events wait in Kafka until one does."""
    if stack.status(settings).service("predictor").state == "waiting for a champion":
        verb = "waits" if waiting == 1 else "wait"
        raise StackError(
            f"No model serves yet, so {count(waiting, 'upload')} {verb} for one: `lungline train` trains a model, "
            "and `lungline promote` puts a registered one into service."
        )


@dataclass
class _Watch:
    """Matches results and dead letters with uploads as they arrive."""

    settings: Settings
    on_arrival: Callable[[Arrival], None]
    sent: dict[str, float] = field(default_factory=dict)
    """When each upload began, by key, for those without a result."""
    arrivals: list[Arrival] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Why an upload has no result record, by key."""

    def __post_init__(self) -> None:
        self._consumer = _consumer(self.settings)
        self._storage = Storage.from_settings(self.settings)

    def poll(self, seconds: float) -> None:
        """Process the events of the next seconds, or until every upload has its result."""
        deadline = time.monotonic() + seconds
        while self.sent and (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None or message.error() or not message.value():
                continue
            if message.topic() == self.settings.dead_letters_topic:
                self._dead_letter(message)
            else:
                with suppress(ValidationError):  # an event that an erasure has emptied
                    self._arrived(ResultRecord.model_validate_json(message.value() or b""))

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
        self._storage.close()

    def _arrived(self, record: ResultRecord) -> None:
        """Report a result; one that is delivered again is ignored."""
        started = self.sent.pop(record.upload.key, None)
        if started is not None:
            arrival = Arrival(record.upload.key, record, (time.monotonic() - started) * 1000)
            self.arrivals.append(arrival)
            self.on_arrival(arrival)

    def _dead_letter(self, message: "Message") -> None:
        """The event of an upload that failed for good; the record of a refused image says why."""
        for key, identity in _uploads_of(message.value() or b""):
            if key not in self.sent:
                continue
            stored = record_store.find(self._storage, self.settings.results_bucket, identity)
            if stored:
                self._arrived(max(stored, key=lambda record: record.times.done))
            else:
                del self.sent[key]
                self.failures[key] = _error_of(message)


def _uploads_of(event: bytes) -> Iterator[tuple[str, str]]:
    """Key and identity of each upload of an event; none where it cannot be read."""
    try:
        yield from ((upload.key, upload.identity) for upload in parse(event))
    except EventMalformed:
        return


def _error_of(message: "Message") -> str:
    """The predictor's error in the headers of a dead letter."""
    headers = dict(message.headers() or [])
    data = headers.get("ce_knativeerrordata") or b""
    try:
        return str(json.loads(base64.b64decode(data))["error"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return "its event is in the topic of dead letters, and `lungline status` may say why."


def _consumer(settings: Settings) -> "Consumer":
    """A consumer at the current end of both topics; `assign` does not wait for a group to form."""
    from confluent_kafka import KafkaException

    connection = ConnectionErrors()
    consumer = make_consumer(settings, "lungline-watch", {"error_cb": connection.report})
    for topic in (settings.results_topic, settings.dead_letters_topic):
        try:
            assign_end(consumer, topic)
        except KafkaException as exc:
            consumer.poll(0)  # lets the client report why it cannot connect
            raise unavailable(settings, exc, connection, topic=topic) from exc
    return consumer


def scanner(settings: Settings) -> Storage:
    """The store with credentials that may only upload; an external store has its own credentials.

    Raises StackError when no stack runs.
    """
    connected = stack.connect(settings)
    if settings.s3_endpoint is not None:
        return Storage.from_settings(connected)
    environment = stack.env(settings, scanner=True)
    return Storage(
        connected.s3_endpoint,
        connected.s3_region,
        SecretStr(environment["AWS_ACCESS_KEY_ID"]),
        SecretStr(environment["AWS_SECRET_ACCESS_KEY"]),
    )
