"""Which instances this gateway has stored: it may write to the bucket, not read it.

Digests only. Without a ledger (a new pod of a cluster) every instance can still be stored, and repeated ones are still
recognised by the object store; then nothing is known of a changed content.
"""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from gateway.part10 import Instance

_KEPT_SECONDS = 90 * 86_400

log = logging.getLogger("lungline.gateway")


class Ledger:
    """A small database of the instances stored in the last 90 days; threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError as exc:
            log.warning("The ledger %s was damaged (%s): it is made again.", path, exc)
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            self._database = _opened(path)

    def add(self, instance: Instance) -> bool:
        """Note that an instance is stored; True when another content has the same UID.

        Never raises: an object that is stored must not be refused because nothing can be noted.
        """
        name = _name(instance.sop_instance)
        try:
            with self._lock:
                self._database.execute(
                    "INSERT OR IGNORE INTO stored VALUES (?, ?, ?, ?)",
                    (name, instance.sop_class, instance.digest, time.time()),
                )
                rows = self._database.execute("SELECT COUNT(*) FROM stored WHERE instance = ?", (name,))
                return int(rows.fetchone()[0]) > 1
        except sqlite3.Error as exc:
            log.warning("The ledger cannot be written (%s).", type(exc).__name__)
            return False

    def classes(self, instances: Sequence[str]) -> dict[str, set[str]]:
        """The SOP classes under which instances are stored, of those that are. Raises sqlite3.Error."""
        names = {_name(uid): uid for uid in instances}
        stored: dict[str, set[str]] = {}
        query = "SELECT instance, sop_class FROM stored WHERE instance IN (SELECT value FROM json_each(?))"
        with self._lock:
            rows = self._database.execute(query, (json.dumps(list(names)),)).fetchall()
        for name, sop_class in rows:
            stored.setdefault(names[name], set()).add(sop_class)
        return stored

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()


def _opened(path: Path) -> sqlite3.Connection:
    with ExitStack() as unless_made:
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        unless_made.enter_context(closing(database))
        path.chmod(0o600)
        # What a power cut takes from it is stored in the bucket all the same.
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS stored (instance TEXT, sop_class TEXT, digest TEXT, at REAL, "
            "PRIMARY KEY (instance, digest)) WITHOUT ROWID"
        )
        database.execute("DELETE FROM stored WHERE at < ?", (time.time() - _KEPT_SECONDS,))
        unless_made.pop_all()
    return database


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()
