"""What readers say of an upload: read, confirmed, corrected, reopened. Nothing that was said is ever changed."""

import secrets
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lungline.errors import LunglineError
from worklist.tables import Entry, Reading, microseconds

Action = Literal["read", "confirmed", "corrected", "reopened"]
Verdict = Literal["Normal", "Pneumonia", "Not usable"]

VERDICTS: tuple[Verdict, ...] = ("Normal", "Pneumonia", "Not usable")
MAX_COMMENT = 2000
PREFIX = "readings/"


class ReadingRefused(LunglineError):
    """A reading does not fit what it is about; nothing was stored."""


class ReadingRecord(BaseModel):
    """A reading as it lies in S3, so that a lost database loses no label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal[1] = 1
    id: str
    identity: str
    record: str
    version: str
    label: str | None
    probability: float | None
    action: Action
    verdict: Verdict | None
    comment: str
    reader: str
    at: datetime

    @property
    def key(self) -> str:
        """Where the reading lies in the results bucket."""
        return f"{PREFIX}{self.identity[:2]}/{self.identity}/{self.id}.json"


def read(  # what a reader says in one breath
    session: Session, entry: Entry, *, reader: str, action: Action, verdict: Verdict | None = None, comment: str = ""
) -> Reading:
    """Store what a reader said, and show it in the list. Raises ReadingRefused."""
    verdict = _checked(entry, action, verdict)
    reading = Reading(
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


def apply(entry: Entry, reading: Reading) -> None:
    """Show a reading in its entry."""
    entry.read = 0 if reading.action == "reopened" else 1
    entry.action = reading.action
    entry.reader = reading.reader
    entry.read_at = reading.at
    # Opening a case again, or marking it as read, takes nothing back of what somebody saw in it.
    entry.verdict = reading.verdict or entry.verdict
    entry.touched = microseconds(datetime.now(UTC))


def history(session: Session, identity: str) -> list[Reading]:
    """All that was said of an upload, the latest first."""
    found = select(Reading).where(Reading.identity == identity).order_by(Reading.at.desc(), Reading.number.desc())
    return list(session.scalars(found))


def unsaved(session: Session, limit: int = 100) -> list[ReadingRecord]:
    """Readings that do not lie in S3 yet."""
    found = session.scalars(select(Reading).where(Reading.saved == 0).order_by(Reading.number).limit(limit))
    return [record_of(reading) for reading in found]


def mark_saved(session: Session, ids: list[str]) -> None:
    """Note that readings lie in S3."""
    session.execute(update(Reading).where(Reading.id.in_(ids)).values(saved=1))


def record_of(reading: Reading) -> ReadingRecord:
    """A reading as it lies in S3."""
    names = ReadingRecord.model_fields.keys() - {"form"}
    return ReadingRecord.model_validate({name: getattr(reading, name) for name in names})


def restore(session: Session, record: ReadingRecord) -> bool:
    """Take a reading in from S3; False when it is here already."""
    if session.scalar(select(Reading.number).where(Reading.id == record.id)):
        return False
    reading = Reading(**record.model_dump(exclude={"form"}), saved=1)
    session.add(reading)
    entry = session.scalar(select(Entry).where(Entry.identity == record.identity))
    if entry and (entry.read_at is None or entry.read_at < record.at):
        apply(entry, reading)
    session.flush()
    return True


def _checked(entry: Entry, action: Action, verdict: Verdict | None) -> Verdict | None:
    if action == "confirmed":
        if entry.label not in ("Normal", "Pneumonia"):
            raise ReadingRefused(f"There is nothing to confirm in {entry.label or entry.outcome}: say what you see.")
        return entry.label
    if action == "corrected":
        if verdict is None:
            raise ReadingRefused("A correction says what is seen: Normal, Pneumonia or Not usable.")
        return verdict
    return None
