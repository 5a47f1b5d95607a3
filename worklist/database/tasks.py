"""The tasks whose results the list has, as their records describe them."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from lungline.results.records import ResultRecord
from lungline.task.terms import TaskTerms
from worklist.database.models import TaskRow


def remember(session: Session, records: Iterable[ResultRecord], kept: dict[str, tuple[datetime, TaskTerms]]) -> None:
    """Store the terms of the tasks of these records, of each task those of the latest result.

    `kept` is what this process has stored; what is added here is added there.
    """
    for record in records:
        done, terms = record.times.done, record.task_terms
        seen = kept.get(record.task)
        if seen and (seen[1] == terms or seen[0] >= done):
            continue
        row = session.get(TaskRow, record.task)
        if row is None:
            session.add(TaskRow(name=record.task, done=done, body=terms.model_dump_json()))
        elif row.done < done:
            row.done, row.body = done, terms.model_dump_json()
        else:
            done, terms = row.done, TaskTerms.model_validate_json(row.body)
        kept[record.task] = (done, terms)


def stored(session: Session) -> list[TaskTerms]:
    """The terms of all tasks that the list has results of, by name."""
    rows = session.scalars(select(TaskRow.body).order_by(TaskRow.name))
    return [TaskTerms.model_validate_json(body) for body in rows]
