"""Which instances this gateway has stored: it may write to the bucket, not read it.

Digests only. Without a ledger (a new pod of a cluster) every instance can still be stored, and repeated ones are still
recognised by the object store; then nothing is known of a changed content.
"""

import hashlib
import sqlite3
import threading
import time
from pathlib import Path

from gateway.part10 import Instance

_KEPT_SECONDS = 90 * 86_400


class Ledger:
    """A small database of the instances stored in the last 90 days; threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        with self._lock:
            # What a power cut takes from it is stored in the bucket all the same.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS stored (instance TEXT, sop_class TEXT, digest TEXT, at REAL, "
                "PRIMARY KEY (instance, digest)) WITHOUT ROWID"
            )
            self._database.execute("DELETE FROM stored WHERE at < ?", (time.time() - _KEPT_SECONDS,))

    def add(self, instance: Instance) -> bool:
        """Note that an instance is stored; True when another content has the same UID."""
        name = _name(instance.sop_instance)
        with self._lock:
            self._database.execute(
                "INSERT OR IGNORE INTO stored VALUES (?, ?, ?, ?)",
                (name, instance.sop_class, instance.digest, time.time()),
            )
            rows = self._database.execute("SELECT COUNT(*) FROM stored WHERE instance = ?", (name,))
            return int(rows.fetchone()[0]) > 1

    def holds(self, sop_class: str, sop_instance: str) -> bool | None:
        """Whether an instance was stored; None when it was stored under another SOP class."""
        with self._lock:
            rows = self._database.execute("SELECT sop_class FROM stored WHERE instance = ?", (_name(sop_instance),))
            classes = {str(row[0]) for row in rows}
        if not classes:
            return False
        return True if sop_class in classes else None

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()
