"""CloudEvents 1.0 over HTTP and Kafka: one codec for whoever sends and whoever receives.

    binary       the attributes in headers (`ce-` over HTTP, `ce_` in Kafka), the data as the body
    structured   one JSON object with attributes and data
    batched      a JSON array of such objects, over HTTP only; accepted or refused as a whole

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import unquote

from lungline import tracing
from lungline.errors import EventMalformed

MAX_EVENT_BYTES = 2**20  # Kafka's own default limit of a message
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

# What stands for itself in a header.
_KAFKA_ID = re.compile(r"partition:([0-9]{1,10})/offset:([0-9]{1,20})")
_KAFKA_SOURCE = re.compile(r"[^#]{1,1000}#([A-Za-z0-9._-]{1,249})")
_PLAIN = re.compile(r"[!#$&-~]*")

Mode = Literal["binary", "structured"]
# Typed as confluent-kafka has it.
Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """A CloudEvent that arrived in `mode`; its data stays out of `repr()`, it may hold an object's key."""

    type: str
    data: Any = field(repr=False)
    mode: Mode
    trace: str | None = None
    """The W3C trace that it belongs to."""


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """The attributes of a CloudEvent to send, and its data as JSON text."""

    attributes: dict[str, str]
    data: str = field(repr=False)


def require_size(body: bytes | str) -> None:
    """Raise EventMalformed for an event that no Kafka broker would take by default."""
    if len(body) > MAX_EVENT_BYTES:
        raise EventMalformed(f"The event has more than {MAX_EVENT_BYTES} bytes.")


def parse(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """The CloudEvent of a POST, in either mode; header names in lower case. Raises EventMalformed."""
    require_size(body)
    if mode_of(headers) == "structured":
        return _structured(decode_json(body), headers)
    kind = headers.get("ce-type")
    if headers.get("ce-specversion") != "1.0" or not kind:
        raise EventMalformed("The request is not a CloudEvent 1.0: it has no ce-specversion and ce-type.")
    # A page of another site may send text/plain unasked, but not this.
    if _media_type(headers) != "application/json":
        raise EventMalformed("The CloudEvent's data must be application/json.")
    return CloudEvent(kind, decode_json(body), "binary", trace_of(headers))


def parse_all(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """The CloudEvents of a POST: those of a batch, else the one in either other mode. Raises EventMalformed."""
    if _media_type(headers) != BATCHED:
        return [parse(headers, body)]
    events = decode_json(body)
    if not isinstance(events, list):
        raise EventMalformed("The batch of CloudEvents is not a JSON array.")
    return [_structured(event, {}) for event in cast("list[Any]", events)]


def fits_batch(attributes: Mapping[str, str], content_type: str | None, data: bytes) -> bool:
    """Whether `batch` can take an event: its data is JSON, and says so."""
    if content_type != "application/json" or not {"data", "datacontenttype"}.isdisjoint(attributes):
        return False
    try:
        decode_json(data)  # else it could end its event, and begin another
    except EventMalformed:
        return False
    return True


def batch(events: Iterable[tuple[Mapping[str, str], bytes]]) -> bytes:
    """The body in batched mode of events that fit, each of attributes and data."""
    return b"[" + b",".join(_member(attributes, data) for attributes, data in events) + b"]"


def mode_of(headers: Mapping[str, str], value: Any = None) -> Mode:
    """The mode of a request, by its content type or, where that says nothing, its JSON `value`."""
    structured = _media_type(headers) == STRUCTURED or (isinstance(value, dict) and "specversion" in value)
    return "structured" if structured else "binary"


def unwrap(value: Any) -> Any:
    """The data of a structured CloudEvent; any other JSON value as it is. Raises EventMalformed."""
    if not isinstance(value, dict) or "specversion" not in value:
        return cast("Any", value)
    event = cast("dict[str, Any]", value)
    if isinstance(event.get("data_base64"), str):
        try:
            return decode_json(base64.b64decode(event["data_base64"], validate=True))
        except (binascii.Error, ValueError):
            raise EventMalformed("The CloudEvent's data_base64 is not base64.") from None
    data = event.get("data")
    return decode_json(data) if isinstance(data, str) else data


def trace_of(headers: Mapping[str, str], value: Any = None) -> str | None:
    """The W3C trace that an event belongs to: a header's, or the attribute's of a structured event `value`."""
    if (trace := tracing.parent_of(headers)) is not None:
        return trace
    attribute = cast("dict[str, Any]", value).get(tracing.HEADER) if isinstance(value, dict) else None
    return tracing.parent_of({tracing.HEADER: attribute}) if isinstance(attribute, str) else None


def place_of(headers: Mapping[str, str], value: Any = None) -> str | None:
    """Where an event lies in Kafka, as `topic/partition/offset`; None unless id and source are of a Kafka source."""
    attributes = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    name, source = (headers.get(f"ce-{each}") or attributes.get(each) for each in ("id", "source"))
    offset, topic = (
        pattern.fullmatch(text) if isinstance(text, str) else None
        for pattern, text in ((_KAFKA_ID, name), (_KAFKA_SOURCE, source))
    )
    return f"{topic[1]}/{offset[1]}/{offset[2]}" if offset and topic else None


def http_headers(attributes: Mapping[str, str], content_type: str | None = None) -> dict[str, str]:
    """The headers of a binary CloudEvent over HTTP."""
    headers = {f"ce-{name}": percent_encode(value) for name, value in attributes.items()}
    return headers | ({"content-type": content_type} if content_type else {})


def kafka_headers(attributes: Mapping[str, str], content_type: str | None = None) -> Headers:
    """The headers of a binary CloudEvent in Kafka."""
    headers: Headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return headers + ([("content-type", content_type.encode())] if content_type else [])


def percent_encode(text: str) -> str:
    """CloudEvents' HTTP binding 3.1.3.2: printable ASCII stands for itself, but for space, quote and percent."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b'"%' else f"%{byte:02X}" for byte in text.encode()
    )


def percent_decode(text: str) -> str:
    """The text that `percent_encode` was given."""
    return unquote(text)


def decode_json(body: bytes | str) -> Any:
    """The JSON value of an event. Raises EventMalformed, also for what is too large."""
    require_size(body)
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # Without its cause: the decoder's error carries the whole message, keys and all.
        raise EventMalformed("The event is not JSON.") from None


def _refuse_constant(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's decoder takes and JSON does not have."""
    raise ValueError(name)


def _member(attributes: Mapping[str, str], data: bytes) -> bytes:
    event = json.dumps({**attributes, "datacontenttype": "application/json"})
    return b'%s, "data": %s}' % (event[:-1].encode(), data)


def _structured(value: Any, headers: Mapping[str, str]) -> CloudEvent:
    event = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    kind = event.get("type")
    if event.get("specversion") != "1.0" or not isinstance(kind, str):
        raise EventMalformed("The structured CloudEvent has no specversion 1.0 and type.")
    return CloudEvent(kind, unwrap(event), "structured", trace_of(headers, event))


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
