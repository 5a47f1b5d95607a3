"""Results into the database, whatever the order and however often they come."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lungline.results import Outcome, ResultRecord
from worklist.database import Database
from worklist.priority import priority
from worklist.readings import apply
from worklist.tables import Entry, Reading, Record, microseconds

# As in the store: a record gives way only to one that knows more.
_KNOWS: dict[Outcome | str, int] = {"gone": 0, "superseded": 0, "refused": 1, "judged": 2}


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
    stored = session.get(Record, record.id, with_for_update=True)
    if stored and _KNOWS[stored.outcome] >= _KNOWS[record.outcome]:
        return False
    if stored is None:
        stored = Record(id=record.id, identity=identity)
        session.add(stored)
    stored.capture = int(record.heatmap is not None and record.picture is not None and record.picture.format == "dicom")
    stored.outcome, stored.done, stored.body = record.outcome, record.times.done, record.model_dump_json()
    session.flush()
    entry = session.scalar(select(Entry).where(Entry.identity == identity).with_for_update())
    if entry is None:
        session.add(_new_entry(session, record))
    elif _is_later(record, entry):
        _show(entry, record)
        touch(entry)
    session.flush()
    return True


def touch(entry: Entry) -> None:
    """Tell live pages that an entry changed."""
    entry.touched = microseconds(datetime.now(UTC))


def _new_entry(session: Session, record: ResultRecord) -> Entry:
    upload = record.upload
    entry = Entry(
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
    last = select(Reading).where(Reading.identity == upload.identity).order_by(Reading.at.desc(), Reading.number.desc())
    reading = session.scalar(last.limit(1))
    if reading:
        apply(entry, reading)
    return entry


def _show(entry: Entry, record: ResultRecord) -> None:
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


def _is_later(record: ResultRecord, entry: Entry) -> bool:
    """Whether a record is to be shown rather than the one that is: an answer before none, then the newest."""
    return (record.label is not None, record.times.done, record.id) > (
        entry.label is not None,
        entry.done,
        # The same record, now known better, replaces itself.
        "" if entry.record == record.id else entry.record,
    )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment
