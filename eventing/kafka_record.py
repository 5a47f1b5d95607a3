"""Kafka records in the form of Knative's Kafka source and sink: attributes, dead letters, replies."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from lungline import bounds, tracing
from lungline.events.cloudevents import STRUCTURED, Headers, kafka_headers, percent_decode
from lungline.events.uploads import UPLOAD_TYPE

if TYPE_CHECKING:
    from confluent_kafka import Message

SOURCE = "/apis/v1/namespaces/lungline/kafkasources/laptop"
# Knative quotes this much of a sink's response.
MAX_ERROR_BYTES = 1024
# CloudEvents 1.0: names of lower-case letters and digits, best not longer than 20. Others cannot be an HTTP header.
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,40}")
MAX_ATTRIBUTES, MAX_ATTRIBUTE_CHARACTERS = 40, 4096
MAX_KEY_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """A Kafka record, without what delivery does not need."""

    topic: str
    partition: int
    offset: int
    value: bytes = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    milliseconds: int = 0
    """When it was produced, in milliseconds since 1970."""
    trace: str | None = None
    """The `traceparent` of the trace that it belongs to."""
    event: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Its CloudEvent attributes; empty when it is not a CloudEvent."""

    @classmethod
    def of(cls, message: "Message") -> "KafkaRecord":
        """The record of a Kafka client's message."""
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
            content_type=_content_type(headers),
            milliseconds=message.timestamp()[1],
            trace=tracing.parent_of({name.replace("ce_", "ce-"): value for name, value in headers.items()}),
            event=_event(headers),
        )

    def attributes(self) -> dict[str, str]:
        """Its own CloudEvent attributes, or those that Knative's KafkaSource gives to any other record."""
        if self.event:
            return dict(self.event)
        attributes = {
            "specversion": "1.0",
            "type": UPLOAD_TYPE,
            "source": f"{SOURCE}#{self.topic}",
            "subject": f"partition:{self.partition}#{self.offset}",
            "id": f"partition:{self.partition}/offset:{self.offset}",
        }
        if at := bounds.moment_at(self.milliseconds):  # an attribute that an event may lack
            attributes["time"] = at.isoformat(timespec="milliseconds")
        if self.key is not None:
            key = self.key.decode(errors="replace")[:MAX_KEY_CHARACTERS]
            attributes |= {"key": key, "partitionkey": key}
        if self.trace:
            attributes[tracing.HEADER] = self.trace
        return attributes


def _event(headers: Mapping[str, str]) -> dict[str, str]:
    """The attributes of a CloudEvent in Kafka's binary mode; empty when it is not one.

    Without those that no HTTP header can carry: they would make every delivery fail.
    """
    if "ce_specversion" not in headers:
        return {}
    attributes = ((name[3:], value) for name, value in headers.items() if name.startswith("ce_"))
    allowed = ((name, value[:MAX_ATTRIBUTE_CHARACTERS]) for name, value in attributes if _ATTRIBUTE.fullmatch(name))
    return dict(islice(allowed, MAX_ATTRIBUTES))


def _content_type(headers: Mapping[str, str]) -> str | None:
    """The media type of the value; None for one that no HTTP header can carry."""
    value = headers.get("content-type")
    return value if value and value.isascii() and value.isprintable() and len(value) <= MAX_KEY_CHARACTERS else None


def dead_letter_headers(record: KafkaRecord, destination: str, code: int, response: bytes) -> Headers:
    """The headers of a dead letter: the record's own attributes, and why it could not be delivered.

    `code` is the status of the last attempt; Knative uses 500 for a sink that did not answer.
    """
    data = base64.b64encode(response[:MAX_ERROR_BYTES]).decode()
    failure = {"knativeerrordest": destination, "knativeerrorcode": str(code), "knativeerrordata": data}
    return kafka_headers(record.attributes() | failure, record.content_type)


def bare_letter_headers(code: int) -> Headers:
    """The headers of a dead letter whose own attributes cannot be written."""
    return kafka_headers({"specversion": "1.0", "type": UPLOAD_TYPE, "source": SOURCE, "knativeerrorcode": str(code)})


def reply_headers(response: Iterable[tuple[str, str]]) -> Headers | None:
    """The Kafka headers for a sink's reply event, given its response headers; None when it is not a CloudEvent."""
    headers = {name.lower(): value for name, value in response}
    content_type = headers.get("content-type")
    if content_type and content_type.startswith(STRUCTURED):
        return [("content-type", content_type.encode())]
    if "ce-specversion" not in headers:
        return None
    attributes = {name[3:]: percent_decode(value) for name, value in headers.items() if name.startswith("ce-")}
    return kafka_headers(attributes, content_type)
