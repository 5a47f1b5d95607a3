"""The worklist's database: SQLite in the home folder, or PostgreSQL by its address; migrated when opened."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from lungline.errors import SettingsError, Unavailable
from lungline.scrubbing import scrub
from lungline.settings import Settings
from lungline.task.terms import TaskTerms
from worklist.database.models import Table

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 5.0
# One process migrates while others wait; an arbitrary number that no other program uses.
_MIGRATION_LOCK = 7_205_391


class DatabaseUnavailable(Unavailable):
    """The worklist's database is locked, full or gone; the same call may succeed later."""


class Database:
    """Sessions of one database; thread-safe.

    Every call raises DatabaseUnavailable when the database does not answer, is locked for longer than `busy_seconds`,
    or when its file was removed: SQLite itself would keep writing to the deleted file.
    """

    def __init__(self, engine: Engine, file: Path | None, busy_seconds: float = BUSY_SECONDS) -> None:
        self.engine = engine
        self._file = file
        self._inode = _inode(file)
        self._writing = engine.execution_options(lungline_write=True)
        # Writers of one process queue here; SQLite would make them poll for the file lock.
        self._turn = threading.Lock() if file else None
        self._busy_seconds = busy_seconds
        self.tasks: dict[str, tuple[datetime, TaskTerms]] = {}
        """What this process has stored of tasks, and with which result."""
        self._watching: sqlite3.Connection | None = None
        self._watch = threading.Lock()

    @classmethod
    def open(cls, settings: Settings, busy_seconds: float = BUSY_SECONDS) -> "Database":
        """Open the configured database and migrate it to this version's tables."""
        file, engine = _engine(settings, busy_seconds)
        try:
            with _translated():
                migrate(engine)
        except Unavailable:
            engine.dispose()
            raise
        if file:
            file.chmod(0o600)
        return cls(engine, file, busy_seconds)

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that reads."""
        self._check_file()
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """An exclusive session that writes; committed when the context ends without an error."""
        self._check_file()
        with (
            _turn(self._turn, self._busy_seconds),
            _translated(),
            Session(self._writing, expire_on_commit=False) as session,
        ):
            yield session
            session.commit()

    def scrub(self) -> None:
        """Write SQLite's file anew, without what was deleted; PostgreSQL does so by itself in time, and not at once."""
        self._check_file()
        if self._file is None:
            return
        with _turn(self._turn, self._busy_seconds):
            try:
                scrub(self._file)
            except sqlite3.Error as exc:
                raise DatabaseUnavailable(f"The worklist's database is in use ({exc}); try again later.") from exc

    def version(self) -> int | None:
        """A number that each commit changes, of whichever process; None where only a query can tell.

        It costs a hundredth of a query. Raises DatabaseUnavailable only for a file that was removed.
        """
        self._check_file()
        if self._file is None:
            return None
        with self._watch, contextlib.suppress(sqlite3.Error):
            # A connection that commits nothing itself: to its own commits the number is blind.
            if self._watching is None:
                self._watching = sqlite3.connect(self._file, timeout=0, check_same_thread=False)
            return self._watching.execute("PRAGMA data_version").fetchone()[0]
        return None

    def close(self) -> None:
        """Close the connections."""
        with self._watch:
            if self._watching:
                self._watching.close()
            self._watching = None
        self.engine.dispose()

    def _check_file(self) -> None:
        if self._file and _inode(self._file) != self._inode:
            raise DatabaseUnavailable("The worklist's database file was removed or replaced; restart the worklist.")


def migrate(engine: Engine) -> None:
    """Migrate the tables to this version; one process at a time."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)

    def upgrade(revision: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - as alembic's own `upgrade` command does

    with engine.execution_options(lungline_write=True).begin() as connection:
        _lock_for_migration(connection)
        with EnvironmentContext(config, script, fn=upgrade) as environment:
            environment.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
            environment.run_migrations()


def _lock_for_migration(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def _engine(settings: Settings, busy_seconds: float) -> tuple[Path | None, Engine]:
    address = settings.worklist.database
    if address is None:
        folder = settings.home / "worklist"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "worklist.db").resolve()
        # Created here, so that it is never readable for others, not even for a moment.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        return file, _sqlite(f"sqlite:///{file}", busy_seconds)
    try:
        url = make_url(address.get_secret_value())
    except ArgumentError:
        # Without its cause, which shows the URL and its password.
        raise SettingsError("The setting worklist.database is not a valid SQLAlchemy URL.") from None
    if url.get_backend_name() == "sqlite":
        file = Path(url.database).resolve() if url.database else None
        return file, _sqlite(url.render_as_string(False), busy_seconds)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return None, create_engine(url, pool_pre_ping=True, pool_size=10)


def _sqlite(url: str, busy_seconds: float) -> Engine:
    options = {"timeout": busy_seconds, "check_same_thread": False}
    engine = create_engine(url, connect_args=options, pool_timeout=busy_seconds)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # a reading that was taken is there after a power cut
        "foreign_keys = ON",
        "cache_size = -8000",
        "mmap_size = 268435456",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads before it writes fails when another wrote in between, so writers lock at once.
    write = connection.get_execution_options().get("lungline_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _inode(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _turn(lock: "threading.Lock | None", busy_seconds: float) -> Generator[None]:
    if lock is None:
        yield
        return
    if not lock.acquire(timeout=busy_seconds):
        raise DatabaseUnavailable("The worklist's database is busy; try again later.")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except PoolTimeoutError as exc:
        raise DatabaseUnavailable("The worklist's database is busy; try again later.") from exc
    except (OperationalError, InterfaceError) as exc:
        raise DatabaseUnavailable(f"The worklist's database does not answer ({type(exc.orig).__name__}).") from exc
    except DatabaseError as exc:
        if type(exc) is not DatabaseError:  # a constraint violation is our bug
            raise
        raise DatabaseUnavailable("The worklist's database file is damaged or not a database.") from exc
