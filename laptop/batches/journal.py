"""What has been uploaded of batches, so that a second call goes on where the first stopped.

Digests and keys only: names of files may be names of patients. Without a journal nothing is uploaded twice either,
because an object's key is made of its content; it spares reading and sending what is there.
"""

import hashlib
import logging
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path

from lungline.errors import LunglineError

_KEPT_SECONDS = 365 * 86_400

log = logging.getLogger(__name__)


class Journal:
    """The files of one batch, known by a text for all of it, that are in the bucket."""

    def __init__(self, path: Path, batch: str) -> None:
        """Open it. Raises LunglineError where it cannot be written."""
        self._batch = batch
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = self._opened(path)
        except (OSError, sqlite3.OperationalError) as exc:
            raise LunglineError(f"The journal {path} cannot be written: {exc}.") from exc

    def key_of(self, mark: str) -> str | None:
        """The key that a file is stored under; None for one that is not, or not yet."""
        rows = self._database.execute("SELECT key FROM stored WHERE mark = ?", (self._digest(mark),))
        row = rows.fetchone()
        return str(row[0]) if row else None

    def add(self, mark: str, key: str) -> None:
        """Note that a file is stored. Raises LunglineError."""
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO stored VALUES (?, ?, ?)", (self._digest(mark), key, time.time())
            )
        except sqlite3.Error as exc:
            raise LunglineError(f"The journal cannot be written: {exc}.") from exc

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _digest(self, mark: str) -> str:
        return hashlib.sha256(f"{self._batch}\n{mark}".encode("utf-8", "surrogateescape")).hexdigest()

    def _opened(self, path: Path) -> sqlite3.Connection:
        try:
            return _database(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as exc:
            log.warning("The journal %s was damaged (%s): it is made again.", path, exc)
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            return _database(path)


def _database(path: Path) -> sqlite3.Connection:
    with ExitStack() as unless_made:
        database = sqlite3.connect(path, isolation_level=None, timeout=30)
        unless_made.enter_context(closing(database))
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode=WAL")
        # A power cut may take the last notes: those files are then sent again, and recognised.
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS stored (mark TEXT PRIMARY KEY, key TEXT, at REAL) WITHOUT ROWID")
        database.execute("DELETE FROM stored WHERE at < ?", (time.time() - _KEPT_SECONDS,))
        unless_made.pop_all()
    return database
