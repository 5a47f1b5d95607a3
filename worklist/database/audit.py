"""The audit log: who opened, read, corrected and exported what. It identifies uploads by identity, never by key."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from worklist.database.models import Audit


def record(session: Session, who: str, role: str, act: str, *, identity: str | None = None, detail: str = "") -> None:
    """Add an entry."""
    session.add(Audit(at=datetime.now(UTC), who=who, role=role, act=act, identity=identity, detail=detail))


def lines(session: Session, before: int | None = None, limit: int = 200) -> list[Audit]:
    """Entries, the latest first; with `before`, those with a lower number."""
    statement = select(Audit).order_by(Audit.number.desc()).limit(limit)
    return list(session.scalars(statement.where(Audit.number < before) if before else statement))
