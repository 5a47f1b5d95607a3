"""Dead letters are delivered again, after whatever kept them from being taken has been mended.

What was replayed is remembered as the committed offset of a consumer group, so each dead letter is replayed once, by
whichever process; one that dies again is a new dead letter. Letters older than `since` count as settled from then on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from eventing.kafka import bootstrap, client_options
from eventing.producer import Headers, Sender
from lungline.errors import EventMalformed, KafkaUnavailable
from lungline.events.uploads import kafka_key, parse, require_bucket
from lungline.results.events import RESULT_TYPE, RESULTS_TYPE
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

GROUP = "lungline-replay"
TIMEOUT_SECONDS = 10
# Committed together; after a crash so many may be sent again, which does no harm.
BATCH = 500
# What Knative notes of a failure; the event itself did not have it.
_FAILURE = ("ce_knativeerrordest", "ce_knativeerrorcode", "ce_knativeerrordata")


@dataclass(slots=True)
class Replayed:
    """What a replay came to, in dead letters: `hopeless` are no event of ours, and no fix can make them one."""

    replayed: int = 0
    older: int = 0
    hopeless: int = 0

    def __str__(self) -> str:
        """The counts that matter."""
        rest = f"; no events of ours: {self.hopeless}" if self.hopeless else ""
        return f"Dead letters delivered again: {self.replayed}{rest}."


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter on its way back: the topic that it goes to, and the message as it first was."""

    topic: str
    value: bytes
    key: str | bytes | None
    headers: Headers


def addressed(value: bytes, key: str | bytes | None, headers: Headers, settings: Settings) -> Letter | None:
    """Where a dead letter belongs: uploads to their topic, results to theirs; None for what is neither."""
    said = dict(headers)
    if said.get("ce_type") in {RESULT_TYPE.encode(), RESULTS_TYPE.encode()}:
        kept: Headers = [(name, text) for name, text in headers if name not in _FAILURE]
        return Letter(settings.results_topic, value, key, kept)
    try:
        uploads = parse(value)
        require_bucket(uploads, settings.uploads_bucket)
    except EventMalformed:
        return None
    if not uploads:
        return None
    content: Headers = [("content-type", said["content-type"])] if "content-type" in said else []
    # Not the key that came: stores put the object's key there.
    return Letter(settings.uploads_topic, value, kafka_key(uploads[0]), content)


def replay(settings: Settings, *, since: datetime | None = None, again: bool = False) -> Replayed:
    """Deliver the dead letters that are there now, those since a moment if one is given; `again` repeats replayed ones.

    Raises KafkaUnavailable; what had been sent by then may be sent once more by the next replay.
    """
    from confluent_kafka import KafkaException

    found = Replayed()
    consumer = _consumer(settings)
    try:
        sender = Sender(settings)
        held: dict[int, int] = {}
        for message in _letters(consumer, settings.dead_letters_topic, again=again):
            _deliver(message, since, settings, sender, found)
            held[message.partition() or 0] = (message.offset() or 0) + 1
            if (found.replayed + found.older + found.hopeless) % BATCH == 0:
                _settle(consumer, sender, settings, held)
        _settle(consumer, sender, settings, held)
    except KafkaException as exc:
        raise KafkaUnavailable(f"The Kafka broker at {bootstrap(settings)} does not answer.") from exc
    finally:
        consumer.close()
    return found


def _deliver(message: "Message", since: datetime | None, settings: Settings, sender: Sender, found: Replayed) -> None:
    if since and message.timestamp()[1] < since.timestamp() * 1000:
        found.older += 1
        return
    letter = addressed(message.value() or b"", message.key(), cast("Headers", message.headers() or []), settings)
    if letter is None:
        found.hopeless += 1
        return
    sender.send(letter.topic, letter.value, letter.key, letter.headers)
    found.replayed += 1


def _settle(consumer: "Consumer", sender: Sender, settings: Settings, held: dict[int, int]) -> None:
    """Remember what was replayed, once the brokers have it."""
    from confluent_kafka import TopicPartition

    sender.flush()
    if held:
        topic = settings.dead_letters_topic
        offsets = [TopicPartition(topic, number, offset) for number, offset in held.items()]
        consumer.commit(offsets=offsets, asynchronous=False)


def _letters(consumer: "Consumer", topic: str, *, again: bool) -> Iterator["Message"]:
    """Dead letters from the first that was not replayed to the last that is there now, and none that come later."""
    from confluent_kafka import KafkaError, TopicPartition

    starts = _starts(consumer, topic, again=again)
    open_ones = {one.partition for one in starts}
    ends: dict[int, int] = {}
    consumer.assign(starts)
    while open_ones:
        message = consumer.poll(TIMEOUT_SECONDS)
        if message is None:
            raise KafkaUnavailable("The Kafka broker does not give out its dead letters.")
        number, offset = message.partition() or 0, message.offset() or 0
        if error := message.error():
            if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - so the client names it
                raise KafkaUnavailable("The Kafka broker broke off while it gave out dead letters.")
            open_ones.discard(number)
            continue
        if number not in ends:
            # Where the log ended when it was first read. What is asked for before that may be wrong: the embedded
            # broker counts only the first record of its last batch.
            ends[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)[1]
        if offset < ends[number]:
            yield message
        if offset + 1 >= ends[number]:
            open_ones.discard(number)


def _starts(consumer: "Consumer", topic: str, *, again: bool) -> list["TopicPartition"]:
    """Where each partition goes on."""
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition

    known = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions
    committed = consumer.committed([TopicPartition(topic, number) for number in known], timeout=TIMEOUT_SECONDS)
    return [
        TopicPartition(topic, one.partition, OFFSET_BEGINNING if again or one.offset < 0 else one.offset)
        for one in committed
    ]


def _consumer(settings: Settings) -> "Consumer":
    from confluent_kafka import Consumer

    options: dict[str, Any] = {
        "group.id": GROUP,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 0,
    }
    return Consumer(client_options(settings) | options)
