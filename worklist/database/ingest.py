"""Results into the database, whatever the order and however often they come."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lungline.results.records import ResultRecord, knows_more
from lungline.settings import Settings
from worklist.database.models import ReadingRow, ResultRow, WorklistEntry, microseconds
from worklist.database.notices import queue
from worklist.database.readings import apply
from worklist.database.session import Database
from worklist.rules import NoticeRule

RANGES = {"Pneumonia": (1000, 1100), "Unsure": (2000, 2100), "Refused": (3000, 3000), "Normal": (4000, 4100)}
MISSING = 9000  # deleted or overwritten before it was read: nothing to look at


def priority(label: str | None, probability: float | None) -> int:
    """The place of a label and its risk, the smallest first."""
    if label is None:
        return MISSING
    first, last = RANGES[label]
    return max(first, last - round((probability or 0.0) * 100))


def ingest(database: Database, record: ResultRecord) -> bool:
    """Take a result in; False when nothing changed. Raises DatabaseUnavailable."""
    try:
        with database.writing() as session:
            return add(session, record)
    except IntegrityError:
        # Another process took the same upload in at the same moment: now it is there, and this is an update.
        with database.writing() as session:
            return add(session, record)


def add(session: Session, record: ResultRecord) -> bool:
    """Take a result in, within a session that writes."""
    identity = record.upload.identity
    stored = session.get(ResultRow, record.id, with_for_update=True)
    if stored and not knows_more(record.outcome, stored.outcome):
        return False
    if stored is None:
        stored = ResultRow(id=record.id, identity=identity)
        session.add(stored)
    stored.capture = int(record.heatmap is not None and record.image is not None and record.image.format == "dicom")
    stored.outcome, stored.done, stored.body = record.outcome, record.times.done, record.model_dump_json()
    session.flush()
    entry = session.scalar(select(WorklistEntry).where(WorklistEntry.identity == identity).with_for_update())
    if entry is None:
        session.add(_new_entry(session, record))
    elif _is_later(record, entry):
        _show(entry, record)
        touch(entry)
    session.flush()
    return True


def touch(entry: WorklistEntry) -> None:
    """Tell live pages that an entry changed."""
    entry.touched = microseconds(datetime.now(UTC))


def _new_entry(session: Session, record: ResultRecord) -> WorklistEntry:
    upload = record.upload
    entry = WorklistEntry(
        identity=upload.identity,
        bucket=upload.bucket,
        key=upload.key,
        sought=f"{upload.key}\n{upload.identity}".lower(),
        arrived=_aware(record.times.uploaded) or record.times.received,
        read=0,
    )
    _show(entry, record)
    touch(entry)
    # After a rebuild the readings may be here before what they were made of.
    last = (
        select(ReadingRow)
        .where(ReadingRow.identity == upload.identity)
        .order_by(ReadingRow.at.desc(), ReadingRow.number.desc())
    )
    reading = session.scalar(last.limit(1))
    if reading:
        apply(entry, reading)
    return entry


def _show(entry: WorklistEntry, record: ResultRecord) -> None:
    entry.record = record.id
    entry.done = record.times.done
    entry.outcome = record.outcome
    entry.label = record.label
    entry.probability = record.probability
    entry.low = record.thresholds.low
    entry.high = record.thresholds.high
    entry.reason = record.reason
    entry.version = record.model.version
    entry.priority = priority(record.label, record.probability)


def _is_later(record: ResultRecord, entry: WorklistEntry) -> bool:
    """Whether a record is to be shown rather than the one that is: an answer before none, then the newest."""
    return (record.label is not None, record.times.done, record.id) > (
        entry.label is not None,
        entry.done,
        # The same record, now known better, replaces itself.
        "" if entry.record == record.id else entry.record,
    )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def take_in(database: Database, rules: Sequence[NoticeRule], record: ResultRecord, settings: Settings) -> bool:
    """Take a result in and queue its notices; False when it was known. Raises DatabaseUnavailable."""
    try:
        return _take_in(database, rules, record, settings)
    except IntegrityError:  # another process took it in at the same moment
        return _take_in(database, rules, record, settings)


def _take_in(database: Database, rules: Sequence[NoticeRule], record: ResultRecord, settings: Settings) -> bool:
    with database.writing() as session:
        changed = add(session, record)
        age = datetime.now(UTC) - record.times.done
        if changed and age < timedelta(minutes=settings.worklist.notice_max_age):
            queue(session, rules, record)
        return changed
