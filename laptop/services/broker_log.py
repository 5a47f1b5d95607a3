"""What the broker keeps: its objects by key, in one SQLite database of the home.

The embedded broker (tansu 0.6) writes to a store for objects and to nothing else. A database is that store: a write is
there whole or not at all, and lists are in order. All waiting writes are one transaction with one sync of the disk.

Its journal is written in order, so that a sync also keeps what came before it. The broker writes the end of a partition
and then the batch that it has made room for, and answers after the second: only the second waits for the disk.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

# A page holds an end or an offset with room to spare, and most of a small batch.
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS objects (
        key TEXT PRIMARY KEY, version INTEGER NOT NULL, size INTEGER NOT NULL, data BLOB NOT NULL
    ) WITHOUT ROWID
"""
_FOLLOWED_BY_A_BATCH = "/watermark.json"
# The journal shrinks to this after a burst.
_JOURNAL_BYTES = 16 * 2**20
# A reader of another process, such as a benchmark, may be looking.
_PATIENCE_SECONDS = 5.0
_FOREVER = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object; its version is the time of its write in nanoseconds, and never comes twice."""

    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a list."""

    key: str
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A write; without data the key is removed."""

    key: str
    data: bytes | None
    if_version: int | None = None
    """Only where the object has this version; 0 where there must be none."""

    @property
    def waits_for_disk(self) -> bool:
        """Whether it is acknowledged only after a sync."""
        return self.data is not None and not self.key.endswith(_FOLLOWED_BY_A_BATCH)


class BrokerLog:
    """One connection to the database, for one thread at a time. Every method raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False)
        with ExitStack() as unless_made:
            unless_made.enter_context(closing(self._database))
            for pragma in (
                "journal_mode = WAL",
                f"journal_size_limit = {_JOURNAL_BYTES}",
                "wal_autocheckpoint = 0",  # it would come in the middle of somebody's write
                "synchronous = FULL",
            ):
                self._database.execute(f"PRAGMA {pragma}")
            self._database.execute(_SCHEMA)
            (last,) = self._database.execute("SELECT COALESCE(MAX(version), 0) FROM objects").fetchone()
            unless_made.pop_all()
        self._last = int(last)
        self._waits = True

    def close(self) -> None:
        """Let the database go; the last connection writes the journal into it."""
        self._database.close()

    def get(self, key: str) -> Stored | None:
        """An object; None when there is none."""
        row = self._database.execute("SELECT version, data FROM objects WHERE key = ?", (key,)).fetchone()
        return Stored(*row) if row else None

    def version(self, key: str) -> int:
        """The version of an object; 0 when there is none."""
        row = self._database.execute("SELECT version FROM objects WHERE key = ?", (key,)).fetchone()
        return row[0] if row else 0

    def listed(self, prefix: str, after: str = "", most: int = -1) -> list[Listed]:
        """The objects whose keys begin so and come after another, in the order of their keys."""
        select = "SELECT key, version, size FROM objects WHERE key >= ? AND key < ? AND key > ? ORDER BY key LIMIT ?"
        return [Listed(*row) for row in self._database.execute(select, (prefix, prefix + _FOREVER, after, most))]

    def write(self, changes: Sequence[Change]) -> list[int | None]:
        """Make changes, all or none; returns the new version of each, 0 for a removal, None where its condition fails.

        When it returns, the disk has those that wait for it, and everything before them.
        """
        self._wait_for_disk(any(change.waits_for_disk for change in changes))
        self._database.execute("BEGIN IMMEDIATE")
        try:
            versions = [self._change(change) for change in changes]
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk may have ended it already
                self._database.execute("ROLLBACK")
            raise
        return versions

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; removed again after a power cut, they need not wait for the disk."""
        self.write([Change(key, None) for key in keys])

    def tidy(self) -> None:
        """Copy the journal into the database, as far as nobody writes to it at the time."""
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _change(self, change: Change) -> int | None:
        if change.if_version is not None and self.version(change.key) != change.if_version:
            return None
        if change.data is None:
            self._database.execute("DELETE FROM objects WHERE key = ?", (change.key,))
            return 0
        self._last = max(self._last + 1, time.time_ns())
        row = (change.key, self._last, len(change.data), change.data)
        self._database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)
        return self._last

    def _wait_for_disk(self, waits: bool) -> None:
        if waits != self._waits:
            self._database.execute(f"PRAGMA synchronous = {'FULL' if waits else 'NORMAL'}")
            self._waits = waits


def log_file(broker: Path) -> Path:
    """Where a broker's folder holds its log."""
    return broker / "log.db"


def fill(path: Path, objects: Iterable[tuple[str, bytes]], settled: Callable[[Path], None]) -> int:
    """Make a database of these objects, whole or not at all; returns how many there are.

    `settled` makes the name of a file last.
    """
    draft = path.with_name(f".{path.name}")
    for left in path.parent.glob(f"{draft.name}*"):
        left.unlink()
    log = BrokerLog(draft)
    try:
        count = len(log.write([Change(key, data, 0) for key, data in objects]))
    finally:
        log.close()
    draft.replace(path)
    settled(path.parent)
    return count
