"""Results into the database, in any order and however often they arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lungline.results.patients import PatientRecord
from lungline.results.records import SET_ASIDE as SET_ASIDE_REASONS
from lungline.results.records import ResultRecord, knows_more
from worklist.database import deliveries, erased
from worklist.database.models import (
    SET_ASIDE,
    SET_ASIDE_PRIORITY,
    ReadingRow,
    ResultRow,
    WorklistEntry,
    microseconds,
)
from worklist.database.notices import note_late, queue
from worklist.database.patients import remember
from worklist.database.readings import apply
from worklist.database.session import Database
from worklist.database.tasks import remember as remember_tasks
from worklist.destinations import Destination
from worklist.rules import NoticeRule
from worklist.tasks import URGENT, band_of

RANGES = {
    "Unsure": (2000, 2100),
    "Refused": (3000, 3000),
    SET_ASIDE: (SET_ASIDE_PRIORITY, SET_ASIDE_PRIORITY),
}
"""Where labels stand that every task has; those of findings by their urgency (`worklist.tasks`)."""
_IN_ONE_QUESTION = 100
MISSING = 9000  # deleted or overwritten before it was read: nothing to look at


def priority(record: ResultRecord) -> int:
    """The sort key of a result, the most urgent first; what was set aside, by its reason, comes last."""
    if record.label is None:
        return MISSING
    first, last = _range(record)
    return max(first, last - round((record.probability or 0.0) * 100))


def _range(record: ResultRecord) -> tuple[int, int]:
    own = SET_ASIDE if record.reason in SET_ASIDE_REASONS else record.label or ""
    if own in RANGES:
        return RANGES[own]
    finding = record.task_terms.labelled(record.label)
    return band_of(finding) if finding else URGENT  # of a label that is not known nothing is overlooked


def also_of(record: ResultRecord) -> str | None:
    """The labels of the findings beside that of the record, as the list keeps them."""
    others = record.present[1:]
    return f"|{'|'.join(others)}|" if others else None


# Routine conversions, which records of 0.1 list among the warnings; later ones have them among the notes.
_ROUTINE = frozenset(
    (
        "window applied", "window table applied", "no window: grey levels were spread", "MONOCHROME1 inverted",
        "DICOM without its preamble", *(f"{bits} bit reduced to 8" for bits in range(9, 33)),
    )
)  # fmt: skip


def warnings_of(record: ResultRecord) -> list[str]:
    """What a reader must know of an image, without routine conversions."""
    return [warning for warning in record.warnings if warning not in _ROUTINE]


def notes_of(record: ResultRecord) -> list[str]:
    """Routine conversions of an image."""
    return [*(warning for warning in record.warnings if warning in _ROUTINE), *record.notes]


def ingest(
    database: Database,
    *records: ResultRecord,
    patients: Sequence[PatientRecord] = (),
    rules: Sequence[NoticeRule] = (),
    destinations: Sequence[Destination] = (),
    notice_max_age: timedelta = timedelta(hours=1),
) -> int:
    """Store results and their patients in one transaction, queue notices and deliveries; return the changes.

    Results older than `notice_max_age` send no notice, and say so. Raises DatabaseUnavailable.
    """
    return len(
        ingested(database, records, patients, rules=rules, destinations=destinations, notice_max_age=notice_max_age)
    )


def ingested(
    database: Database,
    records: Sequence[ResultRecord],
    patients: Sequence[PatientRecord],
    *,
    rules: Sequence[NoticeRule],
    destinations: Sequence[Destination],
    notice_max_age: timedelta,
) -> list[ResultRecord]:
    """Ingest results; returns those that changed something. Raises UploadsErased, after which none is stored."""
    store = partial(
        _ingest, database, records, patients, rules=rules, destinations=destinations, notice_max_age=notice_max_age
    )
    try:
        return store()
    except IntegrityError:
        # Another process stored the same upload at the same moment; this time it is an update.
        return store()


def touch(entry: WorklistEntry) -> None:
    """Mark an entry as changed for live pages."""
    entry.touched = microseconds(datetime.now(UTC))


def _ingest(
    database: Database,
    records: Sequence[ResultRecord],
    patients: Sequence[PatientRecord],
    *,
    rules: Sequence[NoticeRule],
    destinations: Sequence[Destination],
    notice_max_age: timedelta,
) -> list[ResultRecord]:
    tasks = dict(database.tasks)
    with database.writing() as session:
        remember(session, *patients)
        remember_tasks(session, records, tasks)
        stored = _Stored.of(session, records)
        changed = [record for record in records if _add(session, stored, record)]
        session.flush()
        # Many in one statement, which their numbers would prevent if they were wanted here.
        session.bulk_save_objects(stored.new)
        for record in changed:
            deliveries.queue(session, destinations, record)
        now = datetime.now(UTC)
        new = {id(record) for record in changed}
        noted = [record for record in records if id(record) in new or stored.waits_for(record)]
        queue(session, rules, [record for record in noted if now - record.times.done < notice_max_age])
        for record in changed:
            if now - record.times.done >= notice_max_age:
                note_late(session, rules, record, notice_max_age)
        session.flush()
        erased.require_none(session, (record.upload.identity for record in records))
    database.tasks = tasks
    return changed


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the database has about some results, read in three statements; results that are added are added here too."""

    rows: dict[str, ResultRow]
    entries: dict[str, WorklistEntry]
    readings: dict[str, ReadingRow]
    """The last of each upload that has no entry: during a rebuild readings may arrive before their result."""
    new: list[WorklistEntry]
    """Entries that the database does not have."""

    @classmethod
    def of(cls, session: Session, records: Sequence[ResultRecord]) -> "_Stored":
        """In the order of their ids, so that concurrent transactions do not lock each other out."""
        stored, ordered = cls({}, {}, {}, []), sorted(records, key=lambda record: record.id)
        for start in range(0, len(ordered), _IN_ONE_QUESTION):
            part = ordered[start : start + _IN_ONE_QUESTION]
            ids, identities = [record.id for record in part], {record.upload.identity for record in part}
            rows = select(ResultRow).where(ResultRow.id.in_(ids)).order_by(ResultRow.id)
            stored.rows.update({row.id: row for row in session.scalars(rows.with_for_update())})
            entries = select(WorklistEntry).where(WorklistEntry.identity.in_(identities))
            entries = entries.order_by(WorklistEntry.identity).with_for_update()
            stored.entries.update({entry.identity: entry for entry in session.scalars(entries)})
            readings = select(ReadingRow).where(ReadingRow.identity.in_(identities - stored.entries.keys()))
            readings = readings.order_by(ReadingRow.at, ReadingRow.number)
            stored.readings.update({reading.identity: reading for reading in session.scalars(readings)})
        return stored

    def waits_for(self, record: ResultRecord) -> bool:
        """Whether nobody has read a result that is stored already.

        A restoration stores results and queues no notices, since most have had theirs. Those whose event comes after
        it have not: a worklist that starts for the first time may find results that no event has told it of. `queue`
        adds nothing that is there.
        """
        row, entry = self.rows[record.id], self.entries.get(record.upload.identity)
        return row.outcome == record.outcome and entry is not None and not entry.read


def _add(session: Session, stored: _Stored, record: ResultRecord) -> bool:
    identity = record.upload.identity
    row = stored.rows.get(record.id)
    if row and not knows_more(record.outcome, row.outcome):
        return False
    if row is None:
        row = stored.rows[record.id] = ResultRow(id=record.id, identity=identity)
        session.add(row)
    row.capture_error = None
    row.capture = int(record.has_heatmap and record.image is not None and record.image.format == "dicom")
    row.outcome, row.done, row.body = record.outcome, record.times.done, record.model_dump_json()
    entry = stored.entries.get(identity)
    if entry is None:
        entry = stored.entries[identity] = _new_entry(record, stored.readings.get(identity))
        stored.new.append(entry)
    elif _is_later(record, entry):
        _show(entry, record)
        touch(entry)
    return True


def _new_entry(record: ResultRecord, reading: ReadingRow | None) -> WorklistEntry:
    upload = record.upload
    entry = WorklistEntry(
        identity=upload.identity,
        bucket=upload.bucket,
        key=upload.key,
        sought=f"{upload.key}\n{upload.identity}".lower(),
        arrived=record.times.uploaded or record.times.received,
        read=0,
    )
    _show(entry, record)
    touch(entry)
    if reading:
        apply(entry, reading)
    return entry


def _show(entry: WorklistEntry, record: ResultRecord) -> None:
    entry.record = record.id
    entry.done = record.times.done
    entry.outcome = record.outcome
    entry.task = record.task
    entry.label = record.label
    entry.also = also_of(record)
    entry.probability = record.probability
    entry.low = record.thresholds.low
    entry.high = record.thresholds.high
    entry.reason = record.reason
    entry.attention = "; ".join(warnings_of(record)) or None
    entry.version = record.model.version
    entry.priority = priority(record)


def _is_later(record: ResultRecord, entry: WorklistEntry) -> bool:
    """Whether a record replaces the displayed one: any label beats none, then the newest wins."""
    return (record.label is not None, record.times.done, record.id) > (
        entry.label is not None,
        entry.done,
        # A record that knows more replaces its own earlier version.
        "" if entry.record == record.id else entry.record,
    )
