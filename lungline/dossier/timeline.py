"""Everything that happened to an upload, in the order of the clocks that noted it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from lungline.dossier.parts import Dossier, EventKind, WorklistPart
from lungline.events.uploads import readable_key
from lungline.results.purposes import Purpose
from lungline.results.records import ResultRecord


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened: when, what, by whom, and which place says so."""

    at: datetime
    what: str
    source: str
    who: str = ""


_EVENTS: dict[EventKind, str] = {
    "upload": "Upload event",
    "result": "Result event",
    "dead letter": "Dead letter",
    "second opinion": "Event of a second opinion",
    "back-fill": "Upload event for another version",
}
_PURPOSES: dict[Purpose, str] = {"shadow": "from the shadow", "rejudged": "back-filled"}


def timeline(dossier: Dossier) -> list[Moment]:
    """The moments of a dossier, the earliest first."""
    moments = [*_promotions(dossier), *_events(dossier), *_readings(dossier), *_holds(dossier), *_opinions(dossier)]
    for number, record in enumerate(reversed(dossier.results)):
        moments += _result(record, is_first=number == 0)
    if dossier.worklist:
        moments += _worklist(dossier.worklist)
    return sorted(moments, key=lambda moment: moment.at)


def _promotions(dossier: Dossier) -> Iterator[Moment]:
    entries = {sheet.in_force.hash: sheet for sheet in dossier.models if sheet.in_force}
    for sheet in entries.values():
        if entry := sheet.in_force:
            what = f"Version {entry.version} of {sheet.name} went into service: {entry.reason}"
            yield Moment(entry.at, what, f"history entry {entry.number}", entry.by)


def _events(dossier: Dossier) -> Iterator[Moment]:
    for event in dossier.events:
        if event.at:
            what = f"{_EVENTS[event.kind]}{f': {event.remark}' if event.remark else ''}"
            yield Moment(event.at, what, f"{event.topic} {event.partition}/{event.offset}")


def _result(record: ResultRecord, *, is_first: bool) -> Iterator[Moment]:
    times, version = record.times, record.model.version
    if is_first and times.uploaded:
        where = f" as {readable_key(record.upload.key)}" if record.upload.key else ""
        yield Moment(times.uploaded, f"The object was stored{where}", f"bucket {record.upload.bucket}")
    event = f"the event {record.event}" if record.event else "the event"
    yield Moment(times.received, f"The predictor received {event}, with version {version}", "result record")
    yield Moment(times.done, answer_of(record), "result record")


def answer_of(record: ResultRecord) -> str:
    """What a version says of the upload."""
    risk = f", risk {record.probability:.1%}" if record.probability is not None else ""
    return f"{record.label or record.outcome.capitalize()}{risk}, by version {record.model.version}"


def _readings(dossier: Dossier) -> Iterator[Moment]:
    for reading in dossier.readings:
        verdict = f": {reading.verdict}" if reading.verdict else ""
        comment = f" “{reading.comment}”" if reading.comment else ""
        yield Moment(reading.at, f"{reading.action.capitalize()}{verdict}{comment}", "reading record", reading.reader)


def _holds(dossier: Dossier) -> Iterator[Moment]:
    for hold in dossier.holds:
        reason = f": {hold.reason}" if hold.reason else ""
        yield Moment(hold.at, f"Legal hold on the {hold.on}{reason}", f"hold {hold.id}", hold.by)


def _opinions(dossier: Dossier) -> Iterator[Moment]:
    for opinion in dossier.opinions:
        what = f"Second opinion, {_PURPOSES[opinion.purpose]}: {answer_of(opinion.record)}"
        yield Moment(opinion.record.times.done, what, opinion.purpose)


def _worklist(part: WorklistPart) -> Iterator[Moment]:
    for notice in part.notices:
        name = f"Notice “{notice.rule}”, step {notice.step + 1}"
        yield Moment(notice.created, f"{name}, was queued", "notices")
        if notice.sent:
            yield Moment(notice.sent, f"{name}, was sent", "notices")
        if notice.acknowledged:
            yield Moment(notice.acknowledged, f"{name}, was acknowledged", "notices", notice.acknowledged_by or "")
    for delivery in part.deliveries:
        yield Moment(delivery.created, f"Delivery to “{delivery.destination}” was queued", "deliveries")
        if delivery.sent:
            yield Moment(delivery.sent, f"Delivered to “{delivery.destination}”", "deliveries")
    for entry in part.audit:
        what = f"{entry.act.capitalize()}{f' · {entry.detail}' if entry.detail else ''}"
        yield Moment(entry.at, what, f"audit log entry {entry.number}", f"{entry.who} ({entry.role})")
