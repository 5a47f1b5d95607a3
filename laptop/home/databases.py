"""Whether a SQLite database is whole, looked at before the service that opens it starts."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

# A large database is read no longer than this before a start; what lies further back its service meets later.
LOOK_SECONDS = 0.05
_INSTRUCTIONS = 2_000


def database_fault(path: Path, table: str) -> str | None:
    """What is wrong with a database that should have a table, in a few words; None for a sound or an empty one."""
    if not path.stat().st_size:
        return None
    deadline = time.monotonic() + LOOK_SECONDS
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=1)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        is_fine = exc.sqlite_errorcode in {sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        return None if is_fine else "SQLite cannot open it"
    except sqlite3.DatabaseError:
        return "it is no SQLite database, or only a part of one"
    if answer != "ok":
        return "SQLite's quick check fails"
    return f"it has no table {table}" if names and table not in names else None
