"""Result events: the CloudEvents that carry result records from the predictor to the worklist.

Those of second opinions carry none: they say where one lies, and go to nobody but the worklist.
"""

import re
import uuid
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lungline import bounds, tracing
from lungline.errors import EventMalformed
from lungline.events.cloudevents import CloudEvent, OutgoingEvent
from lungline.events.uploads import Upload
from lungline.results.purposes import Purpose
from lungline.results.records import REFUSED, UNSURE, ResultRecord

RESULT_TYPE = "org.lungline.result.v1"
RESULTS_TYPE = "org.lungline.results.v1"  # of an event with several uploads: {"records": [...]}
OPINION_TYPE = "org.lungline.second-opinion.v1"
RESULT_SOURCE = "/lungline/predictor"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def result_event(records: list[ResultRecord], trace: str, *, kind: str = "", source: str = "") -> OutgoingEvent:
    """The event that answers an upload event: one record with its trace, or several under `records`.

    `kind` and `source` replace the attributes `type` and `source`, as KServe's CE_TYPE and CE_SOURCE do.
    """
    single = records[0] if len(records) == 1 else None
    attributes = {
        "specversion": "1.0",
        # The same upload predicted again is the same event: consumers may drop it by its id.
        "id": single.id if single else str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join(record.id for record in records))),
        "type": kind or (RESULT_TYPE if single else RESULTS_TYPE),
        "source": source or RESULT_SOURCE,
        "time": records[-1].times.done.isoformat().replace("+00:00", "Z"),
    }
    if single is None:
        return OutgoingEvent(attributes, f'{{"records":[{",".join(record.model_dump_json() for record in records)}]}}')
    attributes |= {"subject": single.upload.identity, tracing.HEADER: trace}
    return OutgoingEvent(attributes, single.model_dump_json())


class OpinionHint(BaseModel):
    """Where a second opinion lies; who reads of it fetches the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    purpose: Purpose
    identity: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    version: str = Field(pattern=_VERSION.pattern, max_length=128)


class _Opinions(BaseModel):
    opinions: list[OpinionHint] = Field(min_length=1)


def opinion_event(records: list[ResultRecord], trace: str, purpose: Purpose) -> OutgoingEvent:
    """The event that answers an upload event where the predictor gives second opinions; it names no object."""
    hints = [
        OpinionHint(purpose=purpose, identity=record.upload.identity, version=record.model.version)
        for record in records
    ]
    attributes = {
        "specversion": "1.0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join((purpose, *(record.id for record in records))))),
        "type": OPINION_TYPE,
        "source": RESULT_SOURCE,
        "time": records[-1].times.done.isoformat().replace("+00:00", "Z"),
        tracing.HEADER: trace,
    }
    return OutgoingEvent(attributes, _Opinions(opinions=hints).model_dump_json())


def opinions_of(event: CloudEvent) -> list[OpinionHint]:
    """Where the second opinions of an event lie. Raises EventMalformed."""
    try:
        return _Opinions.model_validate(event.data).opinions
    except ValidationError as exc:
        place = ".".join(map(str, exc.errors()[0]["loc"])) or "its form"
        raise EventMalformed(f"The event's data names no second opinions: see {place}.") from None


def results_of(event: CloudEvent) -> list[ResultRecord]:
    """The results that an event carries. Raises EventMalformed, with a sentence that does not show a key."""
    data = event.data
    if event.type == RESULTS_TYPE and isinstance(data, dict):
        records = cast("dict[str, Any]", data).get("records")
        if not isinstance(records, list) or not records:
            raise EventMalformed("The event has no list of records.")
        return [_result(record) for record in cast("list[Any]", records)]
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
    if record.label not in (None, UNSURE, REFUSED, *record.task_terms.labels):
        raise EventMalformed(f"The result's label is none of the task {record.task}.")
    written = (record.times.received, record.times.done)
    if any(time.tzinfo is None for time in written):
        raise EventMalformed("The result's times have no time zone.")
    if not all(bounds.recorded(time) for time in written):
        raise EventMalformed("The result's times lie before 2000 or in the future.")


def is_consistent(record: ResultRecord) -> bool:
    """Whether `check` would take a record."""
    try:
        check(record)
    except EventMalformed:
        return False
    return True


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
        return record.label not in (None, REFUSED) and record.probability is not None
    return record.label == (REFUSED if record.outcome == "refused" else None)
