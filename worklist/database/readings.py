"""Readings of uploads: read, confirmed, corrected, reopened. Stored readings never change."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lungline.errors import LunglineError
from lungline.results.readings import NOT_USABLE, Action, ReadingRecord, Verdict
from lungline.results.records import REFUSED, UNSURE
from lungline.task.terms import Presence
from worklist.database.models import ReadingRow, WorklistEntry, microseconds

MAX_COMMENT = 2000
_FIELDS = ReadingRecord.model_fields.keys() & ReadingRow.__table__.columns.keys()


class ReadingRefused(LunglineError):
    """A reading does not fit its upload; nothing was stored."""


class ResultChanged(LunglineError):
    """The result is no longer the one that was shown to the reader; nothing was stored."""


def require_shown(entry: WorklistEntry, record: str, label: str) -> None:
    """Refuse an action on a result that was replaced after it was shown.

    `record` is the id of the result record that was shown, which names the model version; `label` is its label, or ""
    for a result without one. Raises ResultChanged.
    """
    if (record, label) == (entry.record, entry.label or ""):
        return
    shown = f"{label or 'no result'} (model {record.rpartition('-')[2]})"
    current = f"{entry.label or 'no result'} (model {entry.version})"
    raise ResultChanged(
        f"The result has changed from {shown} to {current} since it was shown. Nothing was saved: check the new result "
        "and choose again."
    )


def read(
    session: Session,
    entry: WorklistEntry,
    *,
    reader: str,
    action: Action,
    verdict: Verdict | None = None,
    findings: Mapping[str, Presence] | None = None,
    comment: str = "",
    reading_id: str | None = None,
) -> ReadingRow:
    """Store a reading and show it in the list; `reading_id` is a new one by default. Raises ReadingRefused.

    `findings` says of each positive finding whether it is there, where the task has several.
    """
    verdict = _checked(entry, action, verdict)
    reading = ReadingRow(
        id=reading_id or new_id(),
        identity=entry.identity,
        record=entry.record,
        version=entry.version,
        task=entry.task,
        label=entry.label,
        probability=entry.probability,
        action=action,
        verdict=verdict,
        findings=dict(findings) if findings else None,
        comment=comment.strip()[:MAX_COMMENT],
        reader=reader,
        at=datetime.now(UTC),
    )
    session.add(reading)
    apply(entry, reading)
    session.flush()
    return reading


def new_id() -> str:
    """A random id for a reading: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def find(session: Session, reading_id: str) -> ReadingRow | None:
    """The reading with an id."""
    return session.scalar(select(ReadingRow).where(ReadingRow.id == reading_id))


def apply(entry: WorklistEntry, reading: ReadingRow) -> None:
    """Show a reading in its entry."""
    entry.read = 0 if reading.action == "reopened" else 1
    entry.action = reading.action
    entry.reader = reading.reader
    entry.read_at = reading.at
    # Reopening a case or marking it as read keeps the last verdict.
    entry.verdict = reading.verdict or entry.verdict
    entry.touched = microseconds(datetime.now(UTC))


def latest_verdict(session: Session, identity: str) -> ReadingRow | None:
    """The last reading of an upload that has a verdict."""
    statement = select(ReadingRow).where(ReadingRow.identity == identity, ReadingRow.verdict.is_not(None))
    return session.scalar(statement.order_by(ReadingRow.at.desc(), ReadingRow.number.desc()).limit(1))


def history(session: Session, identity: str) -> list[ReadingRow]:
    """All readings of an upload, the latest first."""
    statement = (
        select(ReadingRow)
        .where(ReadingRow.identity == identity)
        .order_by(ReadingRow.at.desc(), ReadingRow.number.desc())
    )
    return list(session.scalars(statement))


def unsaved(session: Session, limit: int = 100) -> list[ReadingRecord]:
    """Readings that are not in S3 yet."""
    rows = session.scalars(select(ReadingRow).where(ReadingRow.saved == 0).order_by(ReadingRow.number).limit(limit))
    return [record_of(row) for row in rows]


def mark_saved(session: Session, ids: list[str]) -> None:
    """Record that readings are in S3."""
    session.execute(update(ReadingRow).where(ReadingRow.id.in_(ids)).values(saved=1))


def record_of(reading: ReadingRow) -> ReadingRecord:
    """A reading in the format of S3."""
    values = {name: getattr(reading, name) for name in _FIELDS}
    return ReadingRecord.model_validate(values | {"findings": reading.findings or {}})


def restore(session: Session, record: ReadingRecord) -> bool:
    """Store a reading from S3; False when it is in the database already."""
    if session.scalar(select(ReadingRow.number).where(ReadingRow.id == record.id)):
        return False
    reading = ReadingRow(**record.model_dump(include=set(_FIELDS)), saved=1)
    session.add(reading)
    entry = session.scalar(select(WorklistEntry).where(WorklistEntry.identity == record.identity))
    if entry and (entry.read_at is None or entry.read_at < record.at):
        apply(entry, reading)
    session.flush()
    return True


def _checked(entry: WorklistEntry, action: Action, verdict: Verdict | None) -> Verdict | None:
    if action == "confirmed":
        if entry.label in (None, UNSURE, REFUSED):
            raise ReadingRefused(f"A result of {entry.label or entry.outcome} cannot be confirmed. Choose a reading.")
        return entry.label
    if action == "corrected":
        if verdict is None:
            raise ReadingRefused(f"A correction needs a reading: a finding or {NOT_USABLE}.")
        return verdict
    return None
