import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select, text

from lungline.errors import SettingsError
from lungline.results import record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.postgres import running_postgres
from tests.support.worklist_site import START, home, record
from worklist.database import entries, readings
from worklist.database.entries import Cursor, Filter, Sort
from worklist.database.ingest import ingest
from worklist.database.models import ReadingRow, Table, WorklistEntry
from worklist.database.rebuild import rebuild
from worklist.database.session import Database, DatabaseUnavailable


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    with running_postgres(tmp_path_factory.mktemp("postgres")) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: str | None) -> Iterator[Database]:
    if request.param == "postgresql" and postgres is None:
        assert not os.environ.get("CI"), "CI must have Debian's postgresql"
        pytest.skip("PostgreSQL is not installed")
    address = postgres if request.param == "postgresql" else None
    with closing(Database.open(home(tmp_path, database=address))) as database:
        with database.writing() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(table.delete())
        yield database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with closing(Database.open(home(tmp_path))) as database:
        yield database


def shown(database: Database, wanted: Filter = Filter(view="all")) -> list[WorklistEntry]:  # noqa: B008 - frozen
    with database.reading() as session:
        return entries.page(session, wanted, size=10_000).entries


def only(database: Database) -> WorklistEntry:
    (entry,) = shown(database)
    return entry


def test_concurrent_duplicates_of_a_result_are_stored_once(database: Database) -> None:
    result = record()
    added: list[int] = []
    threads = [threading.Thread(target=lambda: added.append(ingest(database, result))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [0] * 7 + [1]
    assert only(database).probability == 0.9


def test_newest_result_is_shown_in_any_order(database: Database) -> None:
    old, new = record(probability=0.2, done=START), record(probability=0.8, version="2", done=START + timedelta(1))
    assert ingest(database, new)
    ingest(database, old)
    assert (only(database).version, only(database).label) == ("2", "Pneumonia")


def test_missing_image_that_returns_is_predicted_and_stays(database: Database) -> None:
    assert ingest(database, record(outcome="gone"))
    assert shown(database) == []
    assert len(shown(database, Filter(view="missing"))) == 1
    assert ingest(database, record())
    assert only(database).label == "Pneumonia"
    assert not ingest(database, record(outcome="refused"))
    assert ingest(database, record(version="2", outcome="gone", done=datetime.now(UTC)))
    assert (only(database).label, only(database).version) == ("Pneumonia", "1")


def many(count: int) -> list[ResultRecord]:
    dice = random.Random(5)
    outcomes = ["judged"] * 8 + ["refused", "gone"]
    return [
        record(
            number,
            dice.choice([0.05, 0.5, 0.95, dice.random()]),
            outcome=dice.choice(outcomes),
            arrived=START + timedelta(minutes=dice.randrange(40)),
            version=dice.choice("12"),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("sort", ["urgent", "newest"])
@pytest.mark.parametrize("query", [{}, {"label": "Unsure"}, {"version": "2"}, {"q": "RAY-1"}, {"view": "unread"}])
def test_pages_hold_every_row_once_in_both_directions(sqlite: Database, sort: str, query: dict[str, str]) -> None:
    for result in many(120):
        ingest(sqlite, result)
    wanted = Filter.of({"view": "all", "sort": sort} | query)
    whole = [entry.number for entry in shown(sqlite, wanted)]
    assert whole
    walked: list[int] = []
    pages = []
    with sqlite.reading() as session:
        page = entries.page(session, wanted, size=7)
        while True:
            pages.append([entry.number for entry in page.entries])
            walked += pages[-1]
            if page.next is None:
                break
            page = entries.page(session, wanted, after=Cursor.read(page.next), size=7)
        assert walked == whole
        for expected in reversed(pages[:-1]):
            page = entries.page(session, wanted, before=Cursor.read(page.previous or ""), size=7)
            assert [entry.number for entry in page.entries] == expected
        assert page.previous is None


def test_list_begins_with_the_most_urgent(database: Database) -> None:
    risks = {"normal": 0.1, "unsure": 0.5, "certain": 0.99, "likely": 0.8}
    for number, (name, risk) in enumerate(risks.items()):
        ingest(database, record(number, risk, key=name))
    ingest(database, record(9, key="refused", outcome="refused"))
    ingest(database, record(10, 0.8, key="likely, but later"))
    assert [entry.key for entry in shown(database)] == [
        "certain", "likely", "likely, but later", "unsure", "refused", "normal",
    ]  # fmt: skip


def aside(number: int, reason: str = "not-meant", **changes: Any) -> ResultRecord:
    """An image that is kept and not judged."""
    return record(number, outcome="refused", reason=reason, **changes)


def test_images_that_are_set_aside_stand_below_all_others(database: Database) -> None:
    ingest(database, aside(0, key="lateral"), aside(1, "own-result", key="ours"))
    ingest(database, record(2, 0.0, key="normal"), record(3, key="damaged", outcome="refused"))
    assert [entry.key for entry in shown(database)] == ["damaged", "normal", "lateral", "ours"]
    orders: tuple[Sort, ...] = ("urgent", "newest")
    for sort in orders:
        chosen = {
            label: {entry.key for entry in shown(database, Filter(view="all", label=label, sort=sort))}
            for label in ("Refused", "Set aside")
        }
        assert chosen == {"Refused": {"damaged"}, "Set aside": {"lateral", "ours"}}, sort
    with database.reading() as session:
        counters = entries.count(session)
    assert (counters.refused, counters.set_aside, counters.unread) == (1, 2, 4)


def undo_tasks(connection: sqlite3.Connection) -> None:
    """Take away what version 0009 adds, and 0010."""
    connection.execute("DROP TABLE opinions")
    connection.execute("DROP TABLE erased")
    for index in ("entries_counted", "entries_task_urgent"):
        connection.execute(f"DROP INDEX {index}")
    for table, column in (("readings", "findings"), ("readings", "task"), ("entries", "also"), ("entries", "task")):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("DROP TABLE tasks")
    connection.execute("CREATE INDEX entries_counted ON entries (outcome, label, read)")


def test_migration_moves_what_was_set_aside_to_the_end(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path))) as database:
        ingest(database, aside(0, key="lateral"), record(1, 0.0, key="normal"))
    with closing(sqlite3.connect(tmp_path / "worklist/worklist.db")) as connection, connection:
        connection.execute("UPDATE entries SET priority = 3000 WHERE key = 'lateral'")
        undo_tasks(connection)
        connection.execute("ALTER TABLE deliveries DROP COLUMN reading")  # which version 0007 adds
        connection.execute("DROP INDEX ix_deliveries_kept")  # version 0008
        connection.execute("ALTER TABLE deliveries DROP COLUMN kept")
        connection.execute("UPDATE alembic_version SET version_num = '0005'")
    with closing(Database.open(home(tmp_path))) as database:
        assert [entry.key for entry in shown(database)] == ["normal", "lateral"]


def test_filter_selects_the_same_in_sql_and_python(sqlite: Database) -> None:
    for result in many(150):
        ingest(sqlite, result)
    ingest(sqlite, *(aside(number, key=f"aside/xray-{number}") for number in range(150, 160)))
    now = START + timedelta(minutes=75)
    with sqlite.writing() as session:
        everything = list(session.scalars(select(WorklistEntry)))
        for entry in everything[::3]:
            readings.read(session, entry, reader="r", action="read")
    queries = [
        {"view": view, "label": label, "version": version, "age": age, "q": q}
        for view in ("unread", "read", "all", "missing")
        for label in ("", "Refused", "Normal", "Set aside")
        for version in ("", "2")
        for age in ("", "1h")
        for q in ("", "xray-1", "%", "_")
    ]
    with sqlite.reading() as session:
        for query in queries:
            wanted = Filter.of(query)
            selected = {entry.number for entry in entries.page(session, wanted, size=999, now=now).entries}
            assert selected == {entry.number for entry in everything if wanted.matches(entry, now)}, query


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "a.b.c", "1.2.3.4", "1..3", "-.1.1", "9.9.99999999999999999999", "１.1.1"]
)
def test_invalid_position_is_the_beginning(text: str) -> None:
    assert Cursor.read(text) is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "lungline-results") as storage:
        yield storage


def test_rebuild_restores_results_and_readings_from_the_store(tmp_path: Path, store: Storage) -> None:
    wanted = many(30)
    for result in wanted:
        record_store.save(store, "lungline-results", result)
    store.put(
        "lungline-results", "results/xx/foreign.json", record(key="a").model_dump_json().replace("0.9", "9").encode()
    )
    store.put("lungline-results", "readings/xx/foreign.json", b"not a reading")
    pneumonia = next(result for result in wanted if result.label == "Pneumonia")
    with closing(Database.open(home(tmp_path / "first"))) as first:
        assert rebuild(first, store, Settings()).added == 30
        with first.writing() as session:
            entry = entries.find(session, pneumonia.upload.identity)
            assert entry
            reading = readings.read(
                session, entry, reader="dr.adams", action="corrected", verdict="Normal", comment="clear"
            )
            saved = readings.record_of(reading)
        store.put("lungline-results", saved.key, saved.model_dump_json().encode())
        before = [(entry.identity, entry.priority, entry.verdict, entry.read) for entry in shown(first)]
    with closing(Database.open(home(tmp_path / "second"))) as second:
        done = rebuild(second, store, Settings())
        assert (done.records, done.added, done.readings, done.odd) == (31, 30, 1, 1)
        assert [(entry.identity, entry.priority, entry.verdict, entry.read) for entry in shown(second)] == before
        again = rebuild(second, store, Settings())
        assert (again.added, again.readings) == (0, 0)
        with second.reading() as session:
            assert session.scalar(select(ReadingRow.comment)) == "clear"


def test_migrations_match_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Table.metadata) == []


def test_nobody_else_can_read_the_database(tmp_path: Path) -> None:
    Database.open(home(tmp_path)).close()
    assert (tmp_path / "worklist/worklist.db").stat().st_mode & 0o077 == 0
    assert (tmp_path / "worklist").stat().st_mode & 0o077 == 0


def test_locked_database_is_unavailable_and_works_afterwards(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path), busy_seconds=0.1)) as database:
        other = sqlite3.connect(tmp_path / "worklist/worklist.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable):
            ingest(database, record())
        assert shown(database) == []  # readers need not wait
        other.execute("ROLLBACK")
        other.close()
        assert ingest(database, record())


def test_database_without_a_free_connection_is_unavailable_and_works_afterwards(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path), busy_seconds=0.1)) as database:
        with ExitStack() as taken:
            for _ in range(15):  # the pool has five, and ten more for peaks
                taken.enter_context(database.engine.connect())
            with pytest.raises(DatabaseUnavailable, match="busy"), database.reading() as session:
                session.execute(text("SELECT 1"))
        assert shown(database) == []


def test_removed_database_file_is_unavailable(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path))) as database:
        (tmp_path / "worklist/worklist.db").unlink()
        with pytest.raises(DatabaseUnavailable, match="removed"):
            ingest(database, record())


def test_damaged_database_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "worklist").mkdir()
    (tmp_path / "worklist/worklist.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        Database.open(home(tmp_path))


def test_wrong_database_url_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Database.open(home(tmp_path, database="password"))
    assert "password" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable):
        Database.open(home(tmp_path, database="postgresql://127.0.0.1:9/none?connect_timeout=1"))


def test_counters_count_each_upload_once(database: Database) -> None:
    for number, risk in enumerate([0.9, 0.8, 0.5, 0.1]):
        ingest(database, record(number, risk))
        ingest(database, record(number, risk, version="2"))
    ingest(database, record(7, outcome="refused"))
    ingest(database, record(8, outcome="gone"))
    with database.writing() as session:
        readings.read(session, next(iter(shown(database))), reader="r", action="confirmed")
        entry = entries.find(session, record(0).upload.identity)
        assert entry
        readings.read(session, entry, reader="r", action="confirmed")
    with database.reading() as session:
        counters = entries.count(session)
    assert (counters.uploaded, counters.judged, counters.positive, counters.unsure, counters.refused) == (
        6,
        4,
        2,
        1,
        1,
    )
    assert (counters.unread, counters.urgent) == (4, 1)
    with database.reading() as session:
        assert session.execute(text("select count(*) from readings")).scalar() == 2
