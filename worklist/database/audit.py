"""The audit log: who opened, read, corrected and exported what. It names uploads by identity, never by key."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from worklist.database.models import Audit


def record(session: Session, who: str, role: str, act: str, *, identity: str | None = None, detail: str = "") -> None:
    """Add a line."""
    session.add(Audit(at=datetime.now(UTC), who=who, role=role, act=act, identity=identity, detail=detail))


def lines(session: Session, before: int | None = None, limit: int = 200) -> list[Audit]:
    """Lines, the latest first; those before the one with this number."""
    asked = select(Audit).order_by(Audit.number.desc()).limit(limit)
    return list(session.scalars(asked.where(Audit.number < before) if before else asked))
