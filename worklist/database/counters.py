"""Counters of what happens to uploads elsewhere: dead letters, and images de-identified for research."""

from datetime import UTC, datetime

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from lungline.errors import LunglineError, Unavailable
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database.models import Checkpoint, Counter, WorklistEntry

DEAD_LETTERED = "dead-lettered"
DEIDENTIFIED = "deidentified"


def count_dead_letter(session: Session, name: str, reason: str) -> None:
    """Record that an upload was dead-lettered; `name` is its identity, or a digest of a letter that names no upload."""
    if session.get(Counter, (DEAD_LETTERED, name)) is None:
        session.add(Counter(kind=DEAD_LETTERED, id=name, reason=reason, at=datetime.now(UTC)))


def dead_lettered(session: Session) -> int:
    """The number of dead letters; one that was delivered again and predicted no longer counts."""
    predicted = exists().where(WorklistEntry.identity == Counter.id, WorklistEntry.outcome == "judged")
    letters = select(func.count()).select_from(Counter).where(Counter.kind == DEAD_LETTERED, ~predicted)
    return session.scalar(letters) or 0


def deidentified(session: Session) -> int:
    """The number of images in the research bucket when they were last counted."""
    checkpoint = session.get(Checkpoint, DEIDENTIFIED)
    return checkpoint.value if checkpoint else 0


def count_research(storage: Storage, settings: Settings) -> int:
    """Count the images in the research bucket. Raises StorageUnavailable.

    The bucket is listed because images may also be added later, without an event.
    """
    try:
        return sum(info.key.endswith(".json") for info in storage.list(settings.research_bucket))
    except Unavailable:
        raise
    except LunglineError:  # the first unsure image creates the bucket
        return 0


def save_research_count(session: Session, count: int) -> None:
    """Store the number of images in the research bucket."""
    session.merge(Checkpoint(name=DEIDENTIFIED, value=count))


def state(session: Session) -> tuple[int, int]:
    """A value that changes whenever one of these counters may have changed."""
    letters = session.scalar(select(func.count()).select_from(Counter)) or 0
    return letters, deidentified(session)
