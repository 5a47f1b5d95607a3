"""An idle worklist rests, and wakes at each commit."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worklist_site import home, record
from worklist import resting
from worklist.database.ingest import ingest
from worklist.database.session import Database, DatabaseUnavailable
from worklist.resting import Resting

pytestmark = pytest.mark.skipif("LUNGLINE_TEST_POSTGRES" in os.environ, reason="only SQLite tells of commits")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(home(tmp_path))
    yield opened
    opened.close()


class Work:
    """A job that counts its runs, and says for how long there is nothing to do."""

    __name__ = "work"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.runs = seconds, 0
        self.error: Exception | None = None

    def __call__(self) -> float:
        self.runs += 1
        if self.error:
            raise self.error
        return self.seconds


def test_version_changes_with_each_commit_of_any_process(database: Database, tmp_path: Path) -> None:
    first = database.version()
    assert first is not None
    assert database.version() == first
    ingest(database, record(1))
    second = database.version()
    assert second != first
    other = Database.open(home(tmp_path))
    ingest(other, record(2))
    other.close()
    third = database.version()
    assert third not in (first, second)
    assert database.version() == third


def test_version_of_a_removed_database_is_an_error(database: Database, tmp_path: Path) -> None:
    database.version()
    (tmp_path / "worklist/worklist.db").unlink()
    with pytest.raises(DatabaseUnavailable):
        database.version()


def test_job_without_work_rests_until_a_commit(database: Database) -> None:
    work = Work(math.inf)
    job = Resting(database, work)
    for _ in range(5):
        job()
    assert work.runs == 1
    ingest(database, record())
    for _ in range(5):
        job()
    assert work.runs == 2


def test_job_with_more_to_do_does_not_rest(database: Database) -> None:
    busy = Work(0.0)
    job = Resting(database, busy)
    for _ in range(3):
        job()
    assert busy.runs == 3


def test_job_that_failed_does_not_rest(database: Database) -> None:
    work = Work(math.inf)
    job = Resting(database, work)
    job()
    ingest(database, record())
    work.error = DatabaseUnavailable("away")
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            job()
    work.error = None
    job()
    assert work.runs == 4


def test_rest_has_an_end_without_commits(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "MOST_SECONDS", 0.0)
    work = Work(math.inf)
    job = Resting(database, work)
    job()
    job()
    assert work.runs == 2
