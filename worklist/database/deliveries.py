"""The outbox of results for other systems: waiting, sending, sent, failed (a dead letter), not sent.

A delivery is stored in the same transaction as its result, or as the reading that it waits for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, select, true, update
from sqlalchemy.orm import Session

from lungline.results.readings import Action
from lungline.results.records import ResultRecord
from worklist.database import outbox
from worklist.database.models import Delivery, ReadingRow, ResultRow, WorklistEntry
from worklist.database.outbox import NOT_SENT, is_due
from worklist.database.readings import latest_verdict
from worklist.destinations import After, Destination

# Three days, with the longest wait between two attempts: a weekend.
ATTEMPTS = 900
LONGEST_WAIT = timedelta(minutes=5)
# A pod that still runs with an older file must not fail what a newer one has queued for a new destination.
ABANDON_AFTER = timedelta(hours=1)
_VERDICTS = ("confirmed", "corrected")
NO_PATIENT = "The upload is no DICOM file: it is not known whom it is of, so no other system could file the result."


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a destination has had of a result: the verdict of `reading`, or no verdict unless it `is_final`."""

    reading: str | None
    is_final: bool


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery that is due; `body` is its result record as JSON."""

    number: int
    identity: str
    record: str
    destination: str
    attempts: int
    body: str
    earlier: Earlier | None = None


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How many deliveries of a destination are in a state, and since when the oldest of them is."""

    destination: str
    state: str
    number: int
    oldest: datetime


def queue(
    session: Session, destinations: Sequence[Destination], record: ResultRecord, action: Action | None = None
) -> int:
    """Queue the deliveries of a new result, or of one that a reader has given a verdict; return how many are new."""
    if record.outcome != "judged" or not destinations:
        return 0
    moments = _moments(action)
    wanted = [each for each in destinations if each.after in moments and each.is_about(record)]
    queued = set(session.scalars(select(Delivery.destination).where(Delivery.record == record.id)))
    if action in _VERDICTS:
        _follow_up(session, record.id, [each.name for each in destinations if each.follows_readings])
    _take_up(session, record.id, [each.name for each in wanted if each.after != "result" and each.name in queued])
    now = datetime.now(UTC)
    state = {"state": "waiting"} if names_patient(record) else {"state": NOT_SENT, "error": NO_PATIENT}
    new = [each.name for each in wanted if each.name not in queued]
    for name in new:
        place = {"identity": record.upload.identity, "record": record.id, "destination": name}
        session.add(Delivery(**place, **state, due=now, created=now))
    session.flush()
    return len(new)


def names_patient(record: ResultRecord) -> bool:
    """Whether the upload can name whom it is of; any other is not delivered."""
    return record.image is not None and record.image.format == "dicom"


def queue_reading(session: Session, destinations: Sequence[Destination], record_id: str, action: Action) -> int:
    """Queue the deliveries of a result that a reader has given a verdict."""
    row = session.get(ResultRow, record_id) if destinations else None
    return queue(session, destinations, ResultRecord.model_validate_json(row.body), action) if row else 0


def _follow_up(session: Session, record_id: str, names: Sequence[str]) -> None:
    """Make deliveries due once more that were sent before the last verdict; those in transfer follow when they end."""
    ours = (Delivery.record == record_id) & Delivery.destination.in_(names)
    # Waits for who notes at this moment that a delivery was sent.
    for row in session.scalars(select(Delivery).where(ours).with_for_update()):
        if row.state == "sent" and _has_news(session, row):
            _send_again(row)


def _has_news(session: Session, row: Delivery) -> bool:
    """Whether the last verdict is another than the destination has had."""
    latest = latest_verdict(session, row.identity)
    if latest is None or latest.id == row.reading:
        return False
    before = session.scalar(select(ReadingRow.verdict).where(ReadingRow.id == row.reading)) if row.reading else None
    return latest.verdict != before


def _send_again(row: Delivery) -> None:
    row.state, row.attempts, row.due, row.error = "waiting", 0, datetime.now(UTC), None


def is_wanted(destination: Destination, entry: WorklistEntry, due: DueDelivery) -> bool:
    """Whether the reader still says what a delivery waited for; who has had a result gets each verdict after it."""
    if due.earlier and destination.follows_readings:
        return bool(entry.read)
    if destination.after == "result":
        return True
    return bool(entry.read) and (destination.after == "reading" or entry.action != "corrected")


def _take_up(session: Session, record_id: str, names: Sequence[str]) -> None:
    """Make deliveries due that were not sent because the reader had taken back the verdict, and has given one again."""
    if names:
        dropped = (Delivery.record == record_id) & (Delivery.state == NOT_SENT) & Delivery.destination.in_(names)
        values = {"state": "waiting", "attempts": 0, "error": None, "due": datetime.now(UTC)}
        session.execute(update(Delivery).where(dropped & (Delivery.attempts > 0)).values(**values))


def _moments(action: Action | None) -> tuple[After, ...]:
    if action is None:
        return ("result",)
    return {"confirmed": ("reading", "confirmation"), "corrected": ("reading",)}.get(action, ())


def due_destinations(session: Session) -> set[str]:
    """The destinations that have due deliveries."""
    return set(session.scalars(select(Delivery.destination).where(is_due(Delivery)).distinct()))


def claim(session: Session, destination: str, limit: int = 1) -> list[DueDelivery]:
    """Take due deliveries for sending; no other process gets them for five minutes."""
    rows = outbox.claim(session, Delivery, Delivery.destination == destination, limit)
    return [_due(session, row) for row in rows]


def _due(session: Session, row: Delivery) -> DueDelivery:
    result = session.get(ResultRow, row.record)
    body = result.body if result else ""
    # Rows of before version 0007 do not say which verdict was sent.
    earlier = Earlier(row.reading, is_final=row.reading is not None) if row.sent else None
    return DueDelivery(row.number, row.identity, row.record, row.destination, row.attempts, body, earlier)


def abandon(session: Session, names: Sequence[str]) -> None:
    """Count due deliveries as failed whose destination is not among these, which are all that there are."""
    gone = (
        is_due(Delivery) & Delivery.destination.not_in(names) & (Delivery.created < datetime.now(UTC) - ABANDON_AFTER)
    )
    values = {"state": "failed", "error": "The file of destinations no longer names this one."}
    session.execute(update(Delivery).where(gone).values(**values))


def mark_sent(session: Session, destination: Destination, number: int, reading: str | None) -> None:
    """Record that a destination has taken a delivery, which had a verdict; what a reader has said since is due."""
    row = session.get(Delivery, number, with_for_update=True)
    if row is None:
        return
    row.state, row.sent, row.error, row.reading, row.kept = "sent", datetime.now(UTC), None, reading, 0
    session.flush()
    if destination.follows_readings and _has_news(session, row):
        _send_again(row)


def mark_not_sent(session: Session, due: DueDelivery, reason: str) -> None:
    """Record that a delivery is not needed any longer; what was sent before remains so."""
    values = {"state": "sent", "error": None} if due.earlier else {"state": NOT_SENT, "error": reason}
    session.execute(update(Delivery).where(Delivery.number == due.number).values(**values))


def mark_failed(session: Session, due: DueDelivery, error: str, *, is_final: bool) -> None:
    """Record a failed attempt, which is made again later unless it `is_final`."""
    state = "failed" if is_final or due.attempts >= ATTEMPTS else "waiting"
    wait = min(LONGEST_WAIT, outbox.wait_after(due.attempts))
    values = {"state": state, "error": error, "due": datetime.now(UTC) + wait}
    session.execute(update(Delivery).where(Delivery.number == due.number).values(**values))


def hasten(session: Session, destination: str | None = None) -> int:
    """Make everything due that waits for a destination, or for any; return how many."""
    waiting = update(Delivery).where(Delivery.state == "waiting", _to(destination)).values(due=datetime.now(UTC))
    return len(session.scalars(waiting.returning(Delivery.number)).all())


def again(session: Session, destination: str | None = None) -> int:
    """Make the dead letters of a destination due again, or all; return how many."""
    values = {"state": "waiting", "attempts": 0, "due": datetime.now(UTC)}
    failed = update(Delivery).where(Delivery.state == "failed", _to(destination)).values(**values)
    return len(session.scalars(failed.returning(Delivery.number)).all())


def names(session: Session) -> set[str]:
    """The destinations that ever had a delivery."""
    return set(session.scalars(select(Delivery.destination).distinct()))


def _to(destination: str | None) -> ColumnElement[bool]:
    return true() if destination is None else Delivery.destination == destination


def of_upload(session: Session, identity: str) -> list[Delivery]:
    """The deliveries of an upload, the latest first."""
    return list(session.scalars(select(Delivery).where(Delivery.identity == identity).order_by(Delivery.number.desc())))


def counts(session: Session, *, also_done: bool = False) -> list[DeliveryCount]:
    """The deliveries by destination and state: those that wait or have failed, or also the many that are done."""
    columns = (Delivery.destination, Delivery.state)
    statement = select(*columns, func.count(), func.min(Delivery.created)).group_by(*columns).order_by(*columns)
    if not also_done:
        statement = statement.where(Delivery.state.in_(("waiting", "sending", "failed")))
    return [DeliveryCount(row[0], row[1], row[2], row[3]) for row in session.execute(statement)]


def troubled(session: Session, limit: int = 20) -> list[Delivery]:
    """The latest dead letters, and what could not be delivered yet."""
    has_trouble = Delivery.state.in_(("failed", "waiting")) & Delivery.error.is_not(None)
    return list(session.scalars(select(Delivery).where(has_trouble).order_by(Delivery.number.desc()).limit(limit)))
