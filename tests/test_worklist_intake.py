"""Results that arrive together share a transaction, and not each other's failures."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event

from lungline.results.patients import PatientRecord
from lungline.results.records import ResultRecord
from tests.support.worklist_site import home, record
from worklist.database import entries
from worklist.database.ingest import ingested
from worklist.database.session import Database, DatabaseUnavailable
from worklist.intake import Intake

RESULTS = 24


class Gate:
    """Stores results in a database, but the first transaction begins only when all others wait."""

    def __init__(self, database: Database) -> None:
        self.transactions: list[int] = []
        self.first, self.open = threading.Event(), threading.Event()
        self.fails_on: str | None = None
        self.fault: Exception = ValueError("poison")
        self._store = partial(ingested, database, rules=(), destinations=(), notice_max_age=timedelta(hours=1))

    def ingest(self, records: Sequence[ResultRecord], patients: Sequence[PatientRecord]) -> list[ResultRecord]:
        self.transactions.append(len(records))
        if not self.first.is_set():
            self.first.set()
            assert self.open.wait(10)
        if any(record.id == self.fails_on for record in records):
            raise self.fault
        return self._store(records, patients)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(home(tmp_path))
    yield opened
    opened.close()


def bring(intake: Intake, gate: Gate, results: Sequence[ResultRecord]) -> list[list[ResultRecord] | Exception]:
    """Bring each result in a thread of its own, all but the first while the first is stored."""

    def add(result: ResultRecord) -> list[ResultRecord] | Exception:
        try:
            return intake.add([result], [])
        except (ValueError, DatabaseUnavailable) as exc:
            return exc

    with ThreadPoolExecutor(len(results)) as pool:
        jobs = [pool.submit(add, results[0])]
        assert gate.first.wait(10)
        jobs += [pool.submit(add, result) for result in results[1:]]
        waiting = threading.Event()
        while intake.waiting < len(results) - 1:
            assert not waiting.wait(0.01)
        gate.open.set()
        return [job.result(20) for job in jobs]


def test_results_that_arrive_together_are_stored_in_one_transaction(database: Database) -> None:
    gate = Gate(database)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    results = [record(number) for number in range(RESULTS)]
    assert bring(Intake(gate.ingest), gate, results) == [[result] for result in results]
    assert gate.transactions == [1, RESULTS - 1]
    assert len(statements) < 20
    with database.reading() as session:
        assert entries.count(session).uploaded == RESULTS


def test_the_same_result_twice_at_once_changes_the_list_once(database: Database) -> None:
    gate, result = Gate(database), record(1)
    done = bring(Intake(gate.ingest), gate, [record(0), result, record(1), record(1, version="2")])
    assert sorted(len(changed) for changed in done if isinstance(changed, list)) == [0, 1, 1, 1]
    with database.reading() as session:
        assert entries.count(session).uploaded == 2


def test_one_that_cannot_be_stored_fails_alone(database: Database) -> None:
    gate, results = Gate(database), [record(number) for number in range(5)]
    gate.fails_on = results[3].id
    done = bring(Intake(gate.ingest), gate, results)
    assert [isinstance(each, ValueError) for each in done] == [False, False, False, True, False]
    with database.reading() as session:
        assert entries.count(session).uploaded == 4


def test_nobody_is_answered_when_the_database_is_away(database: Database) -> None:
    gate, results = Gate(database), [record(number) for number in range(5)]
    gate.fails_on, gate.fault = results[3].id, DatabaseUnavailable("away")
    done = bring(Intake(gate.ingest), gate, results)
    assert [isinstance(each, DatabaseUnavailable) for each in done] == [False, True, True, True, True]
    with database.reading() as session:
        assert entries.count(session).uploaded == 1
