"""A Kafka record as Knative's Kafka source and sink read and write it: attributes, dead letters, replies."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lungline import tracing
from lungline.events.cloudevents import STRUCTURED, Headers, kafka_headers, percent_decode
from lungline.events.uploads import UPLOAD_TYPE

if TYPE_CHECKING:
    from confluent_kafka import Message

SOURCE = "/apis/v1/namespaces/lungline/kafkasources/laptop"
# Knative cuts what it quotes of a sink's answer here.
MAX_ERROR_BYTES = 1024


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """A Kafka record, as far as it travels."""

    topic: str
    partition: int
    offset: int
    value: bytes = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    milliseconds: int = 0
    """When it was produced, since 1970."""
    trace: str | None = None
    """The trace that it belongs to, in W3C's form."""
    event: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Attributes of the CloudEvent that it is itself; empty for any other record."""

    @classmethod
    def of(cls, message: "Message") -> "KafkaRecord":
        """A record as the Kafka client gives it."""
        headers = {
            name: value.decode(errors="replace") for name, value in message.headers() or [] if isinstance(value, bytes)
        }
        key = message.key()
        return cls(
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            value=message.value() or b"",
            key=key.encode() if isinstance(key, str) else key,
            content_type=headers.get("content-type"),
            milliseconds=message.timestamp()[1],
            trace=tracing.parent_of({name.replace("ce_", "ce-"): value for name, value in headers.items()}),
            event=_event(headers),
        )

    def attributes(self) -> dict[str, str]:
        """Its own attributes, or what Knative's KafkaSource says of a record that is no CloudEvent itself."""
        if self.event:
            return dict(self.event)
        attributes = {
            "specversion": "1.0",
            "type": UPLOAD_TYPE,
            "source": f"{SOURCE}#{self.topic}",
            "subject": f"partition:{self.partition}#{self.offset}",
            "id": f"partition:{self.partition}/offset:{self.offset}",
            "time": datetime.fromtimestamp(self.milliseconds / 1000, UTC).isoformat(timespec="milliseconds"),
        }
        if self.key is not None:
            key = self.key.decode(errors="replace")
            attributes |= {"key": key, "partitionkey": key}
        if self.trace:
            attributes[tracing.HEADER] = self.trace
        return attributes


def _event(headers: Mapping[str, str]) -> dict[str, str]:
    """The attributes of a CloudEvent in Kafka's binary mode; none when it is not one."""
    if "ce_specversion" not in headers:
        return {}
    return {name[3:]: value for name, value in headers.items() if name.startswith("ce_")}


def dead_letter_headers(record: KafkaRecord, destination: str, code: int, answer: bytes) -> Headers:
    """The headers of a dead letter: the record's own attributes, and why nobody took it.

    `code` is the status of the last attempt, 500 for a sink that did not answer, as Knative has it.
    """
    data = base64.b64encode(answer[:MAX_ERROR_BYTES]).decode()
    why = {"knativeerrordest": destination, "knativeerrorcode": str(code), "knativeerrordata": data}
    return kafka_headers(record.attributes() | why, record.content_type)


def reply_headers(answer: Iterable[tuple[str, str]]) -> Headers | None:
    """Kafka headers of a sink's answer; None for an answer that is no CloudEvent, which goes nowhere."""
    headers = {name.lower(): value for name, value in answer}
    content_type = headers.get("content-type")
    if content_type and content_type.startswith(STRUCTURED):
        return [("content-type", content_type.encode())]
    if "ce-specversion" not in headers:
        return None
    attributes = {name[3:]: percent_decode(value) for name, value in headers.items() if name.startswith("ce-")}
    return kafka_headers(attributes, content_type)
