"""Uploads out of the database: every row about them, and what is left of deleted rows in the file.

The audit log stays as it is, so that its chain still verifies: it names uploads by identity, and never a patient. What
SQLite deletes stays readable in its file until something is written over it, so the file is written anew.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from lungline.retention.plan import Plan
from lungline.retention.rules import EVERYWHERE, Kind
from lungline.retention.subjects import Subject
from worklist.database import audit, erased
from worklist.database.models import (
    Audit,
    Delivery,
    Notice,
    OpinionRow,
    PatientRow,
    ReadingRow,
    ResultRow,
    Table,
    WorklistEntry,
)
from worklist.database.models import Counter as Signal
from worklist.database.session import Database

AT_ONCE = 200
ERASED = "erased"

_Rows = dict[str, tuple[type[Table], InstrumentedAttribute[str]]]
_OF_RESULTS: _Rows = {
    "rows of the list": (WorklistEntry, WorklistEntry.identity),
    "results in the database": (ResultRow, ResultRow.identity),
    "second opinions in the database": (OpinionRow, OpinionRow.identity),
    "readings in the database": (ReadingRow, ReadingRow.identity),
    "notices": (Notice, Notice.identity),
    "deliveries": (Delivery, Delivery.identity),
    "signals": (Signal, Signal.id),
}
_OF_PATIENTS: _Rows = {"patients in the database": (PatientRow, PatientRow.identity)}


@dataclass(frozen=True, slots=True)
class DatabaseRows:
    """The rows of uploads, those that hold results, those that name patients, or both.

    Every method raises DatabaseUnavailable.
    """

    database: Database
    kinds: Sequence[Kind] = EVERYWHERE

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        """How many rows there are, by what they are called."""
        counts = Counter[str]()
        with self.database.reading() as session:
            for part in _parts(subjects):
                for name, (table, column) in self._rows.items():
                    number = session.scalar(select(func.count()).select_from(table).where(column.in_(part)))
                    counts[name] += number or 0
        return +counts

    def erase(self, subjects: Sequence[Subject]) -> None:
        """Delete the rows, and what the file keeps of them, also after a crash in between."""
        if not self._rows:
            return
        if "results" in self.kinds:
            with self.database.writing() as session:
                erased.mark(session, (subject.identity for subject in subjects))
        with self.database.writing() as session:
            _await_writers(session)
            for part in _parts(subjects):
                for table, column in self._rows.values():
                    session.execute(delete(table).where(column.in_(part)))
        self.database.scrub()

    @property
    def _rows(self) -> _Rows:
        results = _OF_RESULTS if "results" in self.kinds else {}
        return results | (_OF_PATIENTS if "patients" in self.kinds else {})


def _await_writers(session: Session) -> None:
    """Let those end who may have looked for the mark before it was set; SQLite has one writer at a time."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE records, opinions IN SHARE ROW EXCLUSIVE MODE"))


def note(database: Database, plan: Plan) -> None:
    """Say in the audit log, once, which uploads an erasure was of. Raises DatabaseUnavailable."""
    with database.writing() as session:
        if session.scalar(select(Audit.number).where(Audit.act == ERASED, Audit.detail == plan.id).limit(1)):
            return
        for subject in plan.subjects:
            audit.record(session, plan.by, "admin", ERASED, identity=subject.identity, detail=plan.id)


def _parts(subjects: Sequence[Subject]) -> Iterator[list[str]]:
    for first in range(0, len(subjects), AT_ONCE):
        yield [subject.identity for subject in subjects[first : first + AT_ONCE]]
