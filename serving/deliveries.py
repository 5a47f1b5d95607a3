"""Upload events in, result events out."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from lungline import tracing
from lungline.diagnosis import Diagnoser, judge_upload
from lungline.errors import EventMalformed
from lungline.events import MAX_EVENT_BYTES, RESULT_SOURCE, RESULT_TYPE, RESULTS_TYPE, Upload, parse, require_bucket
from lungline.results import ResultRecord
from lungline.settings import Settings
from lungline.storage import Storage
from serving.door import Reply, Request, json_reply

STRUCTURED = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Judges the uploads of events, and says so in events."""

    storage: Storage
    settings: Settings
    type: str = ""
    source: str = ""

    def answer(self, value: Any, request: Request, diagnoser: Diagnoser) -> tuple[Reply, list[ResultRecord]]:
        """Judge the uploads that an event tells of, `value` being its JSON; the reply, and what it is made of.

        Raises EventMalformed, and StorageUnavailable after which the whole event may be delivered again: what was
        saved is found, not judged twice.
        """
        if len(request.body) > MAX_EVENT_BYTES:
            raise EventMalformed(f"The event has more than {MAX_EVENT_BYTES} bytes.")
        uploads = parse(value)
        require_bucket(uploads, self.settings.uploads_bucket)
        if not uploads:
            return Reply(204), []
        told = _told(value, request.headers)
        judged = [self._judge(one, diagnoser, request, told) for one in uploads]
        records = [record for record, _ in judged]
        if all(record.outcome == "refused" for record in records):
            return _refusal(records), records
        return self._event(records, _mode(value, request.headers), judged[0][1]), records

    def _judge(
        self, upload: Upload, diagnoser: Diagnoser, request: Request, told: str | None
    ) -> tuple[ResultRecord, str]:
        """The record, and the trace that its followers are told."""
        parent = told or tracing.of_upload(upload.identity)
        with tracing.span("judge", parent, "server") as span:
            record = judge_upload(upload, diagnoser, self.storage, self.settings, request.received)
            span.note(outcome=record.outcome, label=record.label, version=record.model.version, **record.timings)
        return record, span.told or parent

    def _event(self, records: list[ResultRecord], mode: Literal["binary", "structured"], told: str) -> Reply:
        single = records[0] if len(records) == 1 else None
        attributes = {
            "specversion": "1.0",
            # The same upload judged again is the same event: consumers may drop it by its id.
            "id": single.id if single else str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join(one.id for one in records))),
            "type": self.type or (RESULT_TYPE if single else RESULTS_TYPE),
            "source": self.source or RESULT_SOURCE,
            "time": records[-1].times.done.isoformat().replace("+00:00", "Z"),
        }
        if single:
            attributes["subject"] = single.upload.identity
            attributes[tracing.HEADER] = told
        data = (
            single.model_dump_json()
            if single
            else f'{{"records":[{",".join(one.model_dump_json() for one in records)}]}}'
        )
        if mode == "binary":
            headers = {f"ce-{name}": text for name, text in attributes.items()}
            return Reply(200, data.encode(), headers | {"content-type": "application/json"})
        event = {**attributes, "datacontenttype": "application/json", "data": orjson.Fragment(data)}
        return Reply(200, orjson.dumps(event), {"content-type": STRUCTURED})


def _told(value: Any, headers: Mapping[str, str]) -> str | None:
    """The trace that an event belongs to: a header, or an attribute of a structured event."""
    told = tracing.parent_of(headers)
    if told is None and isinstance(value, dict) and isinstance(named := value.get(tracing.HEADER), str):
        return tracing.parent_of({tracing.HEADER: named})
    return told


def _several(records: list[ResultRecord]) -> str:
    return f'{{"records":[{",".join(record.model_dump_json() for record in records)}]}}'


def _mode(value: Any, headers: Mapping[str, str]) -> Literal["binary", "structured"]:
    """The mode of the reply: that of the request; binary, which is plain JSON with headers, for a plain record."""
    structured = headers.get("content-type", "").startswith(STRUCTURED)
    return "structured" if structured or (isinstance(value, dict) and "specversion" in value) else "binary"


def _refusal(records: list[ResultRecord]) -> Reply:
    """The key stays out: what is answered with 4xx ends in dead letters and logs of others."""
    first = records[0]
    ids = [record.id for record in records]
    return json_reply({"error": first.message, "reason": first.reason, "records": ids}, 400)
