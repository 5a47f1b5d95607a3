"""The worklist's database: SQLite in the home folder, or PostgreSQL by its address; migrated when it is opened."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from lungline.errors import SettingsError, Unavailable
from lungline.settings import Settings
from worklist.database.models import Table

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 5.0
# One migrates, others that start at the same moment wait; any number that no other program here would take.
_MIGRATION_LOCK = 7_205_391


class DatabaseUnavailable(Unavailable):
    """The worklist's database is locked, full or gone: the same call may succeed later."""


class Database:
    """Sessions of one database; may be shared by threads.

    Every call raises DatabaseUnavailable when the database does not answer, is locked for longer than five seconds,
    or when its file was removed: SQLite itself would go on writing into a file that nobody can open any more.
    """

    def __init__(self, engine: Engine, file: Path | None) -> None:
        self.engine = engine
        self._file = file
        self._inode = _inode(file)
        self._writing = engine.execution_options(lungline_write=True)
        # Writers of one process take turns here; SQLite would let them poll for the file's lock.
        self._turn = threading.Lock() if file else None

    @classmethod
    def open(cls, settings: Settings) -> "Database":
        """The database that the settings name, brought to this version's tables."""
        file, engine = _engine(settings)
        try:
            with _translated():
                migrate(engine)
        except Unavailable:
            engine.dispose()
            raise
        if file:
            file.chmod(0o600)
        return cls(engine, file)

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that reads."""
        self._check_file()
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A session that writes, alone; committed when the context ends without an error."""
        self._check_file()
        with _turn(self._turn), _translated(), Session(self._writing, expire_on_commit=False) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _check_file(self) -> None:
        if self._file and _inode(self._file) != self._inode:
            raise DatabaseUnavailable("The worklist's database file was removed or replaced; restart the worklist.")


def migrate(engine: Engine) -> None:
    """Bring the tables to this version's form; one process at a time."""
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


def _engine(settings: Settings) -> tuple[Path | None, Engine]:
    address = settings.worklist.database
    if address is None:
        folder = settings.home / "worklist"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "worklist.db").resolve()
        # The file is made here, so that it is never readable for others, not even for a moment.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        return file, _sqlite(f"sqlite:///{file}")
    try:
        url = make_url(address.get_secret_value())
    except ArgumentError:
        # Without its cause, which shows the address and the password in it.
        raise SettingsError("The setting worklist.database is not an SQLAlchemy address.") from None
    if url.get_backend_name() == "sqlite":
        return (Path(url.database).resolve() if url.database else None), _sqlite(url.render_as_string(False))
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return None, create_engine(url, pool_pre_ping=True, pool_size=10)


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "cache_size = -8000",
        "mmap_size = 268435456",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another wrote between: writers say so first.
    write = connection.get_execution_options().get("lungline_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _inode(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _turn(lock: "threading.Lock | None") -> Generator[None]:
    if lock is None:
        yield
        return
    if not lock.acquire(timeout=BUSY_SECONDS):
        raise DatabaseUnavailable("The worklist's database is busy; try again later.")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as exc:
        raise DatabaseUnavailable(f"The worklist's database does not answer ({type(exc.orig).__name__}).") from exc
    except DatabaseError as exc:
        if type(exc) is not DatabaseError:  # a statement that breaks a rule of the tables is a fault of ours
            raise
        raise DatabaseUnavailable("The worklist's database file is damaged or not a database.") from exc
