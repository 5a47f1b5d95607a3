"""Outboxes: what is stored with its result, sent afterwards, and retried until it was sent or counts as failed.

Whoever claims a row has it for some minutes: then it is due again, also when the process that claimed it has died. So a
row may be sent twice after a crash, and never not at all.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from worklist.database.models import Outgoing

SENDING_MINUTES = 5
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(minutes=30)
# Whatever is due later was queued or tried before the clock was set back.
_LATEST = LONGEST_WAIT + timedelta(minutes=1)
# What is never sent, and says why.
NOT_SENT = "not sent"

Row = TypeVar("Row", bound=Outgoing)


def is_due(table: type[Outgoing]) -> ColumnElement[bool]:
    """Whether a row is to be sent now.

    One that was never tried was due when it was queued, and none waits longer than the longest wait: a clock that was
    set back since holds up nothing.
    """
    now = datetime.now(UTC)
    is_time = (table.due <= now) | (table.attempts == 0) | (table.due > now + _LATEST)
    return table.state.in_(("waiting", "sending")) & is_time


def seconds_to_next(session: Session, table: type[Outgoing]) -> float:
    """How long until the next row is due; 0 when one is, infinite without any."""
    if session.scalar(select(exists().where(is_due(table)))):
        return 0.0
    next_due = session.scalar(select(func.min(table.due)).where(table.state.in_(("waiting", "sending"))))
    return seconds_until(next_due)


def seconds_until(moment: datetime | None) -> float:
    """At least 0; infinite for no moment."""
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else math.inf


def claim(session: Session, table: type[Row], condition: ColumnElement[bool], limit: int) -> list[Row]:
    """Take due rows for sending; no other process gets them for five minutes."""
    rows = session.scalars(
        select(table).where(is_due(table), condition).order_by(table.due).limit(limit).with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.state = "sending"
        row.due = datetime.now(UTC) + timedelta(minutes=SENDING_MINUTES)
        row.attempts += 1
    return list(rows)


def wait_after(attempts: int) -> timedelta:
    """How long to wait after so many attempts."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempts - 1, 20))
