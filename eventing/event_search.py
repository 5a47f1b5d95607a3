"""Finds the events about one upload: in the topics of uploads, results, dead letters and second opinions.

Kafka has no index by content, so the topics are read from their beginnings. Most messages are passed over by a text
that each event of the upload holds: its ETag, version id or sequencer, or its identity.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from eventing.kafka import make_consumer, unavailable
from eventing.kafka_errors import ConnectionErrors
from eventing.kafka_record import KafkaRecord
from eventing.offsets import OFFSET_BEGINNING, partitions_of
from eventing.whole_topic import messages_to_end
from lungline import bounds
from lungline.dossier.parts import EventKind, EventSeen
from lungline.errors import EventMalformed, KafkaUnavailable
from lungline.events.uploads import parse
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

GROUP = "lungline-dossier"
"""Nothing is committed in it."""
TIMEOUT_SECONDS = 10.0
MOST_REMARK = 300


def events_of(
    identity: str, state: str | None, settings: Settings, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> list[EventSeen]:
    """The events about an upload, topic by topic in the order of their offsets.

    `state` is that of its object (`UploadFacts.state`); without it every message is parsed. Raises KafkaUnavailable.
    """
    from confluent_kafka import KafkaException

    marks = (identity.encode(), state.encode()) if state else ()
    connection = ConnectionErrors()
    consumer = make_consumer(settings, GROUP, {"enable.partition.eof": True, "error_cb": connection.report})
    topic = ""
    events: list[EventSeen] = []
    try:
        for topic, kind in _topics(consumer, settings, timeout_seconds).items():
            records = map(KafkaRecord.of, _candidates(consumer, topic, marks, timeout_seconds))
            events += [_seen(record, kind) for record in records if identity in _identities(record.value)]
    except KafkaException as exc:
        consumer.poll(0)  # lets the client report why it cannot connect
        raise unavailable(settings, exc, connection, topic=topic) from exc
    finally:
        consumer.close()
    return events


def _topics(consumer: "Consumer", settings: Settings, timeout_seconds: float) -> dict[str, EventKind]:
    """The topics that are read; those of other versions are there only once a version was to judge beside another."""
    there = consumer.list_topics(timeout=timeout_seconds).topics
    always: dict[str, EventKind] = {
        settings.uploads_topic: "upload",
        settings.results_topic: "result",
        settings.dead_letters_topic: "dead letter",
    }
    beside: dict[str, EventKind] = {
        settings.shadow_topic: "second opinion",
        settings.rejudge_topic: "back-fill",
        settings.rejudged_topic: "second opinion",
    }
    always.update((topic, kind) for topic, kind in beside.items() if topic in there)
    return always


def _candidates(
    consumer: "Consumer", topic: str, marks: Sequence[bytes], timeout_seconds: float
) -> Iterator["Message"]:
    from confluent_kafka import TopicPartition

    def silence(_: Mapping[int, int]) -> KafkaUnavailable:
        return KafkaUnavailable(f"The Kafka broker does not return the events of {topic}.")

    starts = dict.fromkeys(partitions_of(consumer, topic, timeout_seconds), OFFSET_BEGINNING)
    consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
    for message in messages_to_end(consumer, topic, starts, timeout_seconds, silence):
        value = message.value() or b""
        if not marks or any(mark in value for mark in marks):
            yield message


def _identities(value: bytes) -> set[str]:
    """The uploads that a message is about, by an upload event or by results; none for what is neither."""
    try:
        return {upload.identity for upload in parse(value)}
    except EventMalformed:
        pass
    try:
        data = json.loads(value)
        data = data.get("data", data)  # of a CloudEvent in structured mode
        return {record["upload"]["identity"] for record in data.get("records", [data])}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()


def _seen(record: KafkaRecord, kind: EventKind) -> EventSeen:
    return EventSeen(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at=bounds.moment_at(record.milliseconds),
        kind=kind,
        remark=_remark(record, kind),
    )


def _remark(record: KafkaRecord, kind: EventKind) -> str:
    if kind in {"result", "second opinion"}:
        return f"event {record.event.get('id', '')[:80]}"
    if kind != "dead letter":
        return ""
    code, data = record.event.get("knativeerrorcode", ""), record.event.get("knativeerrordata", "")
    try:
        reason = base64.b64decode(data, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        reason = data
    return f"status {code}: {reason}"[:MOST_REMARK] if code else ""
