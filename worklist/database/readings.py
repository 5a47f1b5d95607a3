"""What readers say of an upload: read, confirmed, corrected, reopened. Nothing that was said is ever changed."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lungline.errors import LunglineError
from lungline.results.readings import Action, ReadingRecord, Verdict
from worklist.database.models import ReadingRow, WorklistEntry, microseconds

VERDICTS: tuple[Verdict, ...] = ("Normal", "Pneumonia", "Not usable")
MAX_COMMENT = 2000


class ReadingRefused(LunglineError):
    """A reading does not fit what it is about; nothing was stored."""


def read(  # what a reader says in one breath
    session: Session,
    entry: WorklistEntry,
    *,
    reader: str,
    action: Action,
    verdict: Verdict | None = None,
    comment: str = "",
) -> ReadingRow:
    """Store what a reader said, and show it in the list. Raises ReadingRefused."""
    verdict = _checked(entry, action, verdict)
    reading = ReadingRow(
        id=secrets.token_hex(16),
        identity=entry.identity,
        record=entry.record,
        version=entry.version,
        label=entry.label,
        probability=entry.probability,
        action=action,
        verdict=verdict,
        comment=comment.strip()[:MAX_COMMENT],
        reader=reader,
        at=datetime.now(UTC),
    )
    session.add(reading)
    apply(entry, reading)
    session.flush()
    return reading


def apply(entry: WorklistEntry, reading: ReadingRow) -> None:
    """Show a reading in its entry."""
    entry.read = 0 if reading.action == "reopened" else 1
    entry.action = reading.action
    entry.reader = reading.reader
    entry.read_at = reading.at
    # Opening a case again, or marking it as read, takes nothing back of what somebody saw in it.
    entry.verdict = reading.verdict or entry.verdict
    entry.touched = microseconds(datetime.now(UTC))


def history(session: Session, identity: str) -> list[ReadingRow]:
    """All that was said of an upload, the latest first."""
    found = (
        select(ReadingRow)
        .where(ReadingRow.identity == identity)
        .order_by(ReadingRow.at.desc(), ReadingRow.number.desc())
    )
    return list(session.scalars(found))


def unsaved(session: Session, limit: int = 100) -> list[ReadingRecord]:
    """Readings that do not lie in S3 yet."""
    found = session.scalars(select(ReadingRow).where(ReadingRow.saved == 0).order_by(ReadingRow.number).limit(limit))
    return [record_of(reading) for reading in found]


def mark_saved(session: Session, ids: list[str]) -> None:
    """Note that readings lie in S3."""
    session.execute(update(ReadingRow).where(ReadingRow.id.in_(ids)).values(saved=1))


def record_of(reading: ReadingRow) -> ReadingRecord:
    """A reading as it lies in S3."""
    names = ReadingRecord.model_fields.keys() - {"schema_version"}
    return ReadingRecord.model_validate({name: getattr(reading, name) for name in names})


def restore(session: Session, record: ReadingRecord) -> bool:
    """Take a reading in from S3; False when it is here already."""
    if session.scalar(select(ReadingRow.number).where(ReadingRow.id == record.id)):
        return False
    reading = ReadingRow(**record.model_dump(exclude={"schema_version"}), saved=1)
    session.add(reading)
    entry = session.scalar(select(WorklistEntry).where(WorklistEntry.identity == record.identity))
    if entry and (entry.read_at is None or entry.read_at < record.at):
        apply(entry, reading)
    session.flush()
    return True


def _checked(entry: WorklistEntry, action: Action, verdict: Verdict | None) -> Verdict | None:
    if action == "confirmed":
        if entry.label not in ("Normal", "Pneumonia"):
            raise ReadingRefused(f"There is nothing to confirm in {entry.label or entry.outcome}: say what you see.")
        return entry.label
    if action == "corrected":
        if verdict is None:
            raise ReadingRefused("A correction says what is seen: Normal, Pneumonia or Not usable.")
        return verdict
    return None
