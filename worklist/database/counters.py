"""What befell uploads elsewhere, for the counters: dead letters, and images that were de-identified for research."""

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
    """Note that an upload was dead-lettered; `name` is its identity, or a digest where the letter names no upload."""
    if session.get(Counter, (DEAD_LETTERED, name)) is None:
        session.add(Counter(kind=DEAD_LETTERED, id=name, reason=reason, at=datetime.now(UTC)))


def dead_lettered(session: Session) -> int:
    """How many dead letters there are; one that was delivered again and judged is none any more."""
    judged = exists().where(WorklistEntry.identity == Counter.id, WorklistEntry.outcome == "judged")
    letters = select(func.count()).select_from(Counter).where(Counter.kind == DEAD_LETTERED, ~judged)
    return session.scalar(letters) or 0


def deidentified(session: Session) -> int:
    """How many images lay in the research bucket when they were last counted."""
    mark = session.get(Checkpoint, DEIDENTIFIED)
    return mark.value if mark else 0


def count_research(storage: Storage, settings: Settings) -> int:
    """How many images lie in the research bucket. Raises StorageUnavailable.

    Counted where they lie, so that nobody needs to tell: also those that were caught up later are there.
    """
    try:
        return sum(info.key.endswith(".json") for info in storage.list(settings.research_bucket))
    except Unavailable:
        raise
    except LunglineError:  # the first unsure image makes the bucket
        return 0


def save_research_count(session: Session, count: int) -> None:
    """Note how many there are."""
    session.merge(Checkpoint(name=DEIDENTIFIED, value=count))


def state(session: Session) -> tuple[int, int]:
    """Changes whenever one of these counters may have changed."""
    letters = session.scalar(select(func.count()).select_from(Counter)) or 0
    return letters, deidentified(session)
