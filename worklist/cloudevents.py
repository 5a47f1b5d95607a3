"""CloudEvents that carry results in, as a Knative Trigger or the laptop's posts them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from lungline.errors import EventMalformed
from lungline.events import MAX_EVENT_BYTES, RESULT_TYPE, RESULTS_TYPE, Upload
from lungline.results import ResultRecord

STRUCTURED = "application/cloudevents+json"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """Type and data of a CloudEvent, however it was dressed."""

    type: str
    data: Any


def parse(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """The CloudEvent of a POST, in binary or structured mode. Raises EventMalformed."""
    if len(body) > MAX_EVENT_BYTES:
        raise EventMalformed(f"The event has more than {MAX_EVENT_BYTES} bytes.")
    content = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content == STRUCTURED:
        return _structured(_decode(body))
    kind = headers.get("ce-type")
    if headers.get("ce-specversion") != "1.0" or not kind:
        raise EventMalformed("The request is not a CloudEvent 1.0: it has no ce-specversion and ce-type.")
    # A page of another site may send text/plain unasked, but not this.
    if content != "application/json":
        raise EventMalformed("The CloudEvent's data must be application/json.")
    return CloudEvent(kind, _decode(body))


def results_of(event: CloudEvent) -> list[ResultRecord]:
    """The results that an event carries. Raises EventMalformed, with a sentence that does not show a key."""
    data = event.data
    if event.type == RESULTS_TYPE and isinstance(data, dict):
        found = cast("dict[str, Any]", data).get("records")
        if not isinstance(found, list) or not found:
            raise EventMalformed("The event has no list of records.")
        return [_result(one) for one in cast("list[Any]", found)]
    if event.type != RESULT_TYPE:
        raise EventMalformed(f"Expected a CloudEvent of type {RESULT_TYPE}.")
    return [_result(data)]


def check(record: ResultRecord) -> None:
    """Refuse a record that contradicts itself: what it is filed under must be what it tells. Raises EventMalformed."""
    facts = record.upload
    upload = Upload(facts.bucket, facts.key, facts.version_id, facts.etag, facts.sequencer)
    if upload.identity != facts.identity:
        raise EventMalformed("The result's identity is not that of its upload.")
    if not _VERSION.fullmatch(record.model.version) or record.id != f"{facts.identity}-{record.model.version}":
        raise EventMalformed("The result's id is not made of its upload's identity and its model's version.")
    chances = (record.probability, record.thresholds.low, record.thresholds.high)
    if not all(chance is None or 0 <= chance <= 1 for chance in chances):
        raise EventMalformed("The result's probability and thresholds must lie between 0 and 1.")
    if not _is_whole(record):
        raise EventMalformed(f"The result's label and probability do not fit its outcome {record.outcome}.")
    if any(time.tzinfo is None for time in (record.times.received, record.times.done)):
        raise EventMalformed("The result's times have no time zone.")


def _result(data: Any) -> ResultRecord:
    try:
        record = ResultRecord.model_validate(data)
    except ValidationError as exc:
        place = ".".join(map(str, exc.errors()[0]["loc"])) or "its form"
        raise EventMalformed(f"The event's data is not a result record: see {place}.") from None
    check(record)
    return record


def _is_whole(record: ResultRecord) -> bool:
    if record.outcome == "judged":
        return record.label in ("Normal", "Pneumonia", "Unsure") and record.probability is not None
    return record.label == ("Refused" if record.outcome == "refused" else None)


def _structured(value: Any) -> CloudEvent:
    event = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    kind = event.get("type")
    if event.get("specversion") != "1.0" or not isinstance(kind, str):
        raise EventMalformed("The structured CloudEvent has no specversion 1.0 and type.")
    data = event.get("data")
    return CloudEvent(kind, _decode(data.encode()) if isinstance(data, str) else data)


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        # Without its cause, which carries the whole message, keys and all.
        raise EventMalformed("The event is not JSON.") from None
