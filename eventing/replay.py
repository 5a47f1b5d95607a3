"""Delivers dead letters again, after the cause of their failure was fixed.

The committed offset of a consumer group remembers what was replayed, so each dead letter is replayed once, by any
process; one that fails again is a new dead letter. Dead letters older than `since` count as replayed from then on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from eventing.kafka import make_consumer, unavailable
from eventing.kafka_errors import ConnectionErrors
from eventing.offsets import assign_uncommitted
from eventing.producer import Headers, Sender
from eventing.whole_topic import messages_to_end
from lungline.errors import EventMalformed, KafkaUnavailable
from lungline.events.uploads import kafka_key, parse, require_bucket
from lungline.results.events import RESULT_TYPE, RESULTS_TYPE
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

GROUP = "lungline-replay"
TIMEOUT_SECONDS = 10.0
# Committed together; after a crash this many may be sent again, which does no harm.
BATCH = 500
# The attributes that Knative adds to a dead letter; the event itself did not have them.
_FAILURE = ("ce_knativeerrordest", "ce_knativeerrorcode", "ce_knativeerrordata")


@dataclass(slots=True)
class Replayed:
    """What a replay counted, in dead letters: `hopeless` are no events of ours, which no fix can change."""

    replayed: int = 0
    older: int = 0
    hopeless: int = 0

    def __str__(self) -> str:
        """The counts that matter."""
        rest = f"; no events of ours: {self.hopeless}" if self.hopeless else ""
        return f"Dead letters delivered again: {self.replayed}{rest}."


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it was before it failed, and the topic that it came from."""

    topic: str
    value: bytes
    key: str | bytes | None
    headers: Headers


def restore(value: bytes, key: str | bytes | None, headers: Headers, settings: Settings) -> Letter | None:
    """The message that became a dead letter: an upload event or a result event; None when it is neither."""
    by_name = dict(headers)
    if by_name.get("ce_type") in {RESULT_TYPE.encode(), RESULTS_TYPE.encode()}:
        kept: Headers = [(name, text) for name, text in headers if name not in _FAILURE]
        return Letter(settings.results_topic, value, key, kept)
    try:
        uploads = parse(value)
        require_bucket(uploads, settings.uploads_bucket)
    except EventMalformed:
        return None
    if not uploads:
        return None
    content: Headers = [("content-type", by_name["content-type"])] if "content-type" in by_name else []
    # Not the dead letter's key: stores put the object's key there.
    return Letter(settings.uploads_topic, value, kafka_key(uploads[0]), content)


def replay(
    settings: Settings,
    *,
    since: datetime | None = None,
    again: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Replayed:
    """Deliver the dead letters that exist now, those since a moment if one is given; `again` repeats replayed ones.

    `timeout_seconds` is how long the broker may take for each answer. Raises KafkaUnavailable; what was sent by then
    may be sent once more by the next replay.
    """
    from confluent_kafka import KafkaException

    report = Replayed()
    connection = ConnectionErrors()
    consumer = make_consumer(settings, GROUP, {"enable.partition.eof": True, "error_cb": connection.report})
    try:
        sender = Sender(settings)
        offsets: dict[int, int] = {}
        for message in _letters(consumer, settings.dead_letters_topic, timeout_seconds, again=again):
            _deliver(message, since, settings, sender, report)
            offsets[message.partition() or 0] = (message.offset() or 0) + 1
            if (report.replayed + report.older + report.hopeless) % BATCH == 0:
                _commit(consumer, sender, settings, offsets)
        _commit(consumer, sender, settings, offsets)
    except KafkaException as exc:
        consumer.poll(0)  # lets the client report why it cannot connect
        raise unavailable(settings, exc, connection, topic=settings.dead_letters_topic, group=GROUP) from exc
    finally:
        consumer.close()
    return report


def _deliver(message: "Message", since: datetime | None, settings: Settings, sender: Sender, report: Replayed) -> None:
    if since and message.timestamp()[1] < since.timestamp() * 1000:
        report.older += 1
        return
    letter = restore(message.value() or b"", message.key(), cast("Headers", message.headers() or []), settings)
    if letter is None:
        report.hopeless += 1
        return
    sender.send(letter.topic, letter.value, letter.key, letter.headers)
    report.replayed += 1


def _commit(consumer: "Consumer", sender: Sender, settings: Settings, offsets: dict[int, int]) -> None:
    """Remember what was replayed, once the brokers have it."""
    from confluent_kafka import TopicPartition

    sender.flush()
    if offsets:
        topic = settings.dead_letters_topic
        positions = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        consumer.commit(offsets=positions, asynchronous=False)


def _letters(consumer: "Consumer", topic: str, timeout_seconds: float, *, again: bool) -> Iterator["Message"]:
    """Dead letters from the first that was not replayed to the last that exists now, and none that arrive later."""
    starts = assign_uncommitted(consumer, topic, timeout_seconds, from_beginning=again)
    yield from messages_to_end(
        consumer, topic, starts, timeout_seconds, lambda unread: _silence(consumer, topic, unread)
    )


def _silence(consumer: "Consumer", topic: str, starts: Mapping[int, int]) -> KafkaUnavailable:
    """Why no dead letter comes: a position beyond the end, at which the embedded broker says nothing."""
    from confluent_kafka import TopicPartition

    for number, start in starts.items():
        high = consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)[1]
        if start > high >= 0:
            return KafkaUnavailable(
                f"Group {GROUP} is at offset {start} of {topic}, which ends at {high}:"
                " `lungline replay --again` delivers every dead letter and mends it."
            )
    return KafkaUnavailable("The Kafka broker does not return its dead letters.")
