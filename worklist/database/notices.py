"""The outbox: who is to be told of a result, who was, and who has acknowledged it.

A notice is stored in the same transaction as its result and sent afterwards, so that no event sends it twice and no
crash loses it. A crash in the very moment of sending may send it again: better twice than never.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from lungline.results.records import ResultRecord
from worklist.database.models import Notice, WorklistEntry
from worklist.rules import NoticeRule

SENDING_MINUTES = 5
ATTEMPTS = 12
_GIVE_WAY_AFTER = 7
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Due:
    """A notice whose time has come."""

    number: int
    identity: str
    rule: str
    step: int
    target: int
    attempts: int


def queue(session: Session, rules: Sequence[NoticeRule], record: ResultRecord) -> None:
    """Queue the notices of a new result."""
    local = datetime.now().astimezone()
    for rule in rules:
        if rule.fits(record, local):
            _add(session, record.upload.identity, rule, 0, record.label)


def anything_due(session: Session) -> bool:
    """Whether there is anything to send or to escalate."""
    now = datetime.now(UTC)
    ready = Notice.state.in_(("waiting", "sending")) & (Notice.due <= now)
    overdue = (Notice.escalates <= now) & Notice.acknowledged.is_(None)
    return session.scalar(select(Notice.number).where(ready | overdue).limit(1)) is not None


def claim(session: Session, limit: int = 20) -> list[Due]:
    """Notices to be sent now; nobody else gets them for five minutes."""
    now = datetime.now(UTC)
    ready = Notice.state.in_(("waiting", "sending")) & (Notice.due <= now)
    found = session.scalars(
        select(Notice).where(ready).order_by(Notice.due).limit(limit).with_for_update(skip_locked=True)
    ).all()
    for notice in found:
        notice.state = "sending"
        notice.due = now + timedelta(minutes=SENDING_MINUTES)
        notice.attempts += 1
    return [Due(one.number, one.identity, one.rule, one.step, one.target, one.attempts) for one in found]


def mark_sent(session: Session, number: int, escalate_minutes: float | None) -> None:
    """Note that a notice was sent; None when there is nobody to escalate to."""
    now = datetime.now(UTC)
    escalates = now + timedelta(minutes=escalate_minutes) if escalate_minutes else None
    values = {"state": "sent", "sent": now, "error": None, "escalates": escalates}
    session.execute(update(Notice).where(Notice.number == number).values(**values))


def mark_failed(session: Session, due: Due, error: str) -> None:
    """Note that a notice could not be sent; it is tried again, later each time, until it counts as failed."""
    now = datetime.now(UTC)
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (due.attempts - 1))
    state = "failed" if due.attempts >= ATTEMPTS else "waiting"
    values = {"state": state, "error": error, "due": now + wait}
    # Whoever could not be reached for a quarter of an hour does not keep the next from being told.
    if due.attempts == _GIVE_WAY_AFTER:
        values["escalates"] = now
    session.execute(update(Notice).where(Notice.number == due.number).values(**values))


def escalate(session: Session, rules: Sequence[NoticeRule]) -> int:
    """Queue the next step of notices that nobody acknowledged in time, or that could not be sent; how many."""
    known = {rule.name: rule for rule in rules}
    now = datetime.now(UTC)
    asked = select(Notice).where(Notice.escalates <= now, Notice.acknowledged.is_(None))
    found = session.scalars(asked.with_for_update()).all()
    for notice in found:
        notice.escalates = None
        rule = known.get(notice.rule)
        if rule and notice.step + 1 < len(rule.to):
            _add(session, notice.identity, rule, notice.step + 1, notice.label)
    return len(found)


def acknowledge(session: Session, identity: str, who: str) -> int:
    """Note that somebody takes care of an upload; how many notices that answers."""
    open_ones = (Notice.identity == identity) & Notice.acknowledged.is_(None)
    values = {"acknowledged": datetime.now(UTC), "acknowledged_by": who, "escalates": None}
    return len(session.scalars(update(Notice).where(open_ones).values(**values).returning(Notice.number)).all())


def cancel(session: Session, identity: str, who: str) -> None:
    """A reader has seen the upload: what was not sent yet need not be, what was sent is acknowledged."""
    waiting = (Notice.identity == identity) & (Notice.state == "waiting")
    session.execute(update(Notice).where(waiting).values(state="not needed"))
    acknowledge(session, identity, who)


def of_upload(session: Session, identity: str) -> list[Notice]:
    """The notices of an upload, the latest first."""
    return list(session.scalars(select(Notice).where(Notice.identity == identity).order_by(Notice.number.desc())))


def latest(session: Session, limit: int = 200) -> list[tuple[Notice, WorklistEntry]]:
    """Notices with their uploads, the latest first."""
    asked = (
        select(Notice, WorklistEntry)
        .join(WorklistEntry, WorklistEntry.identity == Notice.identity)
        .order_by(Notice.number.desc())
    )
    return [(row[0], row[1]) for row in session.execute(asked.limit(limit))]


@dataclass(frozen=True, slots=True)
class Open:
    """How many notices wait for an acknowledgement, and how many could not be sent."""

    waiting: int
    failed: int


def open_notices(session: Session) -> Open:
    """What the list says of notices."""
    troubled = Notice.acknowledged.is_(None) & (
        (Notice.state == "failed") | (Notice.state == "waiting") & (Notice.error.is_not(None))
    )
    waiting = Notice.acknowledged.is_(None) & (Notice.state == "sent")
    counts = [session.scalar(select(func.count()).select_from(Notice).where(one)) or 0 for one in (waiting, troubled)]
    return Open(*counts)


def _add(session: Session, identity: str, rule: NoticeRule, step: int, label: str | None) -> None:
    """One row for each target, so that one that fails and is tried again does not tell the others twice."""
    now = datetime.now(UTC)
    known = set(
        session.scalars(
            select(Notice.target).where(Notice.identity == identity, Notice.rule == rule.name, Notice.step == step)
        )
    )
    for target in range(len(rule.to[step])):
        if target not in known:
            place = {"identity": identity, "rule": rule.name, "step": step, "target": target, "label": label}
            session.add(Notice(**place, state="waiting", due=now, created=now))
    session.flush()
