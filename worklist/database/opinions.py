"""Second opinions into the database and out of it: compared with the answers, and shown beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lungline.evaluation.disagreement import Pair
from lungline.results.opinions import Opinion
from lungline.results.purposes import Purpose
from worklist.database import erased
from worklist.database.models import OpinionRow, WorklistEntry
from worklist.database.session import Database

MOST_COMPARED = 10_000
"""The latest second opinions of a version that are compared."""
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Judge:
    """A version that has given second opinions: for what, how many, and when the last one."""

    purpose: Purpose
    version: str
    opinions: int
    last: datetime


def store(database: Database, opinions: Sequence[Opinion]) -> None:
    """Store second opinions in one transaction, in any order and however often they arrive. Raises UploadsErased."""
    try:
        _store(database, opinions)
    except IntegrityError:
        # Another process stored the same one at the same moment; this time it is there.
        _store(database, opinions)


def _store(database: Database, opinions: Sequence[Opinion]) -> None:
    with database.writing() as session:
        for opinion in opinions:
            session.merge(_row(opinion))
        session.flush()
        erased.require_none(session, (opinion.record.upload.identity for opinion in opinions))


def judges(session: Session) -> list[Judge]:
    """The versions that have given second opinions, the one that gave the last one first."""
    last = func.max(OpinionRow.done)
    statement = select(OpinionRow.purpose, OpinionRow.version, func.count(), last)
    rows = session.execute(statement.group_by(OpinionRow.purpose, OpinionRow.version).order_by(last.desc()))
    return [Judge(*row) for row in rows]


def pairs(session: Session, purpose: Purpose, version: str, most: int = MOST_COMPARED) -> list[Pair]:
    """The latest second opinions of a version with the answers to the same uploads, where those are another's."""
    statement = (
        select(OpinionRow, WorklistEntry)
        .join(WorklistEntry, WorklistEntry.identity == OpinionRow.identity)
        .where(OpinionRow.purpose == purpose, OpinionRow.version == version, OpinionRow.label.is_not(None))
        .where(WorklistEntry.task == OpinionRow.task, WorklistEntry.version != version)
        .where(WorklistEntry.label.is_not(None))
        .order_by(OpinionRow.done.desc())
        .limit(most)
    )
    return [_pair(row, entry) for row, entry in session.execute(statement)]


def of_upload(session: Session, identity: str) -> list[OpinionRow]:
    """What people who read an upload are shown of second opinions: those on old uploads, the latest first."""
    statement = select(OpinionRow).where(OpinionRow.identity == identity, OpinionRow.purpose == "rejudged")
    statement = statement.where(OpinionRow.label.is_not(None)).order_by(OpinionRow.done.desc()).limit(MOST_SHOWN)
    return list(session.scalars(statement))


def _row(opinion: Opinion) -> OpinionRow:
    record = opinion.record
    times, timings = record.times, record.timings
    return OpinionRow(
        purpose=opinion.purpose,
        identity=record.upload.identity,
        version=record.model.version,
        task=record.task,
        outcome=record.outcome,
        label=record.label,
        probability=record.probability,
        done=times.done,
        waited=max(0.0, (times.done - times.received).total_seconds() * 1000),
        worked=sum(timings.values()) - timings.get("fetch", 0.0),
    )


def _pair(row: OpinionRow, entry: WorklistEntry) -> Pair:
    return Pair(
        identity=row.identity,
        answer=entry.label or "",
        answer_risk=entry.probability,
        opinion=row.label or "",
        opinion_risk=row.probability,
        verdict=entry.verdict if entry.read else None,
        waited=row.waited,
        worked=row.worked,
    )
