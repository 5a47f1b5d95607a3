"""The outbox of notices: pending, sent, acknowledged.

A notice is stored in the same transaction as its result and sent afterwards, so a repeated event does not send it twice
and a crash does not lose it. A crash during sending may send it again: better twice than never.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, select, tuple_, update
from sqlalchemy.orm import Session

from lungline.results.records import ResultRecord
from lungline.wording import ago
from worklist.database import outbox
from worklist.database.models import Notice, WorklistEntry
from worklist.database.outbox import NOT_SENT, is_due
from worklist.rules import NoticeRule

ATTEMPTS = 12
_GIVE_WAY_AFTER = 7
# A notice that is never sent has no place among the groups of its rule: a later result must find theirs free.
LATE_STEP = -1
_IN_ONE_QUESTION = 100
# By more than clocks are corrected while they run.
_SET_BACK = timedelta(minutes=1)


# A rule's name, the number of a group in it, and of a target in that group, from 0.
Target = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Due:
    """A notice that is due."""

    number: int
    identity: str
    rule: str
    step: int
    target: int
    attempts: int


def queue(session: Session, rules: Sequence[NoticeRule], records: Sequence[ResultRecord]) -> None:
    """Queue the notices of new results."""
    local, now = datetime.now().astimezone(), datetime.now(UTC)
    fitting = [(record, rule) for record in records for rule in rules if rule.fits(record, local)]
    queued = _queued(session, sorted({record.upload.identity for record, _ in fitting}))
    for record, rule in fitting:
        for target in range(len(rule.to[0])):
            values = {"identity": record.upload.identity, "rule": rule.name, "step": 0, "target": target}
            if (place := tuple(values.values())) not in queued:
                queued.add(place)
                session.add(Notice(**values, label=record.label, state="waiting", due=now, created=now))


def _queued(session: Session, identities: Sequence[str]) -> set[tuple[object, ...]]:
    """What these uploads have notices for: rule, group and target of each."""
    place = (Notice.identity, Notice.rule, Notice.step, Notice.target)
    queued: set[tuple[object, ...]] = set()
    for start in range(0, len(identities), _IN_ONE_QUESTION):
        part = identities[start : start + _IN_ONE_QUESTION]
        queued |= {tuple(row) for row in session.execute(select(*place).where(Notice.identity.in_(part)))}
    return queued


def note_late(session: Session, rules: Sequence[NoticeRule], record: ResultRecord, limit: timedelta) -> None:
    """Say of a result that came too late for a notice that none was sent: whoever relies on notices must see it."""
    local, now = datetime.now().astimezone(), datetime.now(UTC)
    error = f"The result was {ago(now - record.times.done)} old when it came, and {ago(limit)} is the limit."
    identity = record.upload.identity
    for rule in rules:
        place = (Notice.identity == identity, Notice.rule == rule.name, Notice.step == LATE_STEP)
        if rule.fits(record, local) and session.scalar(select(Notice.number).where(*place)) is None:
            values = {"identity": identity, "rule": rule.name, "label": record.label, "state": NOT_SENT, "error": error}
            session.add(Notice(**values, step=LATE_STEP, due=now, created=now))
    session.flush()


def seconds_to_next(session: Session) -> float:
    """How long until there is a notice to send or to escalate; 0 when there is one, infinite when none waits."""
    if session.scalar(select(exists().where(_is_overdue()))):
        return 0.0
    escalates = session.scalar(select(func.min(Notice.escalates)).where(Notice.acknowledged.is_(None)))
    return min(outbox.seconds_to_next(session, Notice), outbox.seconds_until(escalates))


def due_targets(session: Session) -> set[Target]:
    """The targets that have due notices."""
    place = (Notice.rule, Notice.step, Notice.target)
    return {(row[0], row[1], row[2]) for row in session.execute(select(*place).where(is_due(Notice)).distinct())}


def claim(session: Session, targets: Sequence[Target], limit: int) -> list[Due]:
    """Take due notices of these targets for sending; no other process gets them for five minutes."""
    return _claim(session, tuple_(Notice.rule, Notice.step, Notice.target).in_(targets), limit)


def claim_orphans(session: Session, targets: Sequence[Target], limit: int = 20) -> list[Due]:
    """Take due notices whose target is not among these, which are all that the rules have."""
    return _claim(session, tuple_(Notice.rule, Notice.step, Notice.target).not_in(targets), limit)


def _claim(session: Session, condition: ColumnElement[bool], limit: int) -> list[Due]:
    rows = outbox.claim(session, Notice, condition, limit)
    return [Due(row.number, row.identity, row.rule, row.step, row.target, row.attempts) for row in rows]


def mark_sent(session: Session, number: int, escalate_minutes: float | None) -> None:
    """Record that a notice was sent; `escalate_minutes` is None when there is no further group."""
    now = datetime.now(UTC)
    escalates = now + timedelta(minutes=escalate_minutes) if escalate_minutes else None
    values = {"state": "sent", "sent": now, "error": None, "escalates": escalates}
    session.execute(update(Notice).where(Notice.number == number).values(**values))


def mark_failed(session: Session, due: Due, error: str) -> None:
    """Record a failed attempt; the notice is retried with growing delays until it counts as failed."""
    now = datetime.now(UTC)
    state = "failed" if due.attempts >= ATTEMPTS else "waiting"
    values = {"state": state, "error": error, "due": now + outbox.wait_after(due.attempts)}
    # A target that has failed for a quarter of an hour does not hold up the next group.
    if due.attempts == _GIVE_WAY_AFTER:
        values["escalates"] = now
    session.execute(update(Notice).where(Notice.number == due.number).values(**values))


def escalate(session: Session, rules: Sequence[NoticeRule]) -> int:
    """Queue the next group of notices that were not acknowledged in time or could not be sent; return how many."""
    by_name = {rule.name: rule for rule in rules}
    overdue = session.scalars(select(Notice).where(_is_overdue()).with_for_update()).all()
    for notice in overdue:
        notice.escalates = None
        rule = by_name.get(notice.rule)
        if rule and notice.step + 1 < len(rule.to):
            _add(session, notice.identity, rule, notice.step + 1, notice.label)
    return len(overdue)


def _is_overdue() -> ColumnElement[bool]:
    """Whether a notice is to be escalated; of one sent before the clock was set back nobody can say how long ago."""
    now = datetime.now(UTC)
    was_set_back = Notice.escalates.is_not(None) & (Notice.sent > now + _SET_BACK)
    return Notice.acknowledged.is_(None) & ((Notice.escalates <= now) | was_set_back)


def acknowledge(session: Session, identity: str, who: str) -> int:
    """Acknowledge the notices of an upload; return how many."""
    pending = (Notice.identity == identity) & Notice.acknowledged.is_(None)
    values = {"acknowledged": datetime.now(UTC), "acknowledged_by": who, "escalates": None}
    return len(session.scalars(update(Notice).where(pending).values(**values).returning(Notice.number)).all())


def cancel(session: Session, identity: str, who: str) -> None:
    """Stop the notices of an upload that a reader has seen: pending ones are dropped, sent ones acknowledged."""
    waiting = (Notice.identity == identity) & (Notice.state == "waiting")
    session.execute(update(Notice).where(waiting).values(state="not needed"))
    acknowledge(session, identity, who)


def of_upload(session: Session, identity: str) -> list[Notice]:
    """The notices of an upload, the latest first."""
    return list(session.scalars(select(Notice).where(Notice.identity == identity).order_by(Notice.number.desc())))


def latest(session: Session, limit: int = 200) -> list[tuple[Notice, WorklistEntry]]:
    """Notices with their uploads, the latest first."""
    statement = (
        select(Notice, WorklistEntry)
        .join(WorklistEntry, WorklistEntry.identity == Notice.identity)
        .order_by(Notice.number.desc())
    )
    return [(row[0], row[1]) for row in session.execute(statement.limit(limit))]


@dataclass(frozen=True, slots=True)
class NoticeCounts:
    """The numbers of notices that are not acknowledged and that could not be sent."""

    waiting: int
    failed: int


def count_open(session: Session) -> NoticeCounts:
    """Count the open notices."""
    failed = Notice.acknowledged.is_(None) & (
        (Notice.state == "failed") | (Notice.state == "waiting") & (Notice.error.is_not(None))
    )
    waiting = Notice.acknowledged.is_(None) & (Notice.state == "sent")
    counts = [session.scalar(select(func.count()).select_from(Notice).where(state)) or 0 for state in (waiting, failed)]
    return NoticeCounts(*counts)


def _add(session: Session, identity: str, rule: NoticeRule, step: int, label: str | None) -> None:
    """Queue one row per target, so that retrying one target does not notify the others twice."""
    now = datetime.now(UTC)
    queued = set(
        session.scalars(
            select(Notice.target).where(Notice.identity == identity, Notice.rule == rule.name, Notice.step == step)
        )
    )
    for target in range(len(rule.to[step])):
        if target not in queued:
            values = {"identity": identity, "rule": rule.name, "step": step, "target": target, "label": label}
            session.add(Notice(**values, state="waiting", due=now, created=now))
    session.flush()
