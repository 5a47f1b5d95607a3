"""Scrub a SQLite file: what was deleted stays readable in free pages and journal until both are written anew."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

PATIENCE_SECONDS = 10.0


def scrub(path: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Write a database anew, and empty its journal; others may use it meanwhile, and wait.

    Raises sqlite3.Error, also when somebody reads from it for longer than `patience_seconds`.
    """
    with closing(sqlite3.connect(path, timeout=patience_seconds, isolation_level=None)) as database:
        database.execute("VACUUM")
        deadline = time.monotonic() + patience_seconds
        # Readers that began before need the journal, for as long as a page takes.
        while database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise sqlite3.OperationalError("the database is read all the time")
            time.sleep(0.05)
