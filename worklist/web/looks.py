"""Looks: that somebody was shown something of a patient, in the audit log before it is shown.

A page that is open asks for the same again and again. The same look of the same session is one entry in ten minutes, so
that the log tells who saw what and when, and is not a log of requests.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from worklist.database import audit
from worklist.database.access import Person
from worklist.database.entries import Filter
from worklist.database.session import Database

AGAIN_SECONDS = 600.0
REMEMBERED = 20_000
SAW_PATIENT = "saw patient"

_Look = tuple[str, str, str | None, str]


class Looks:
    """Adds looks to the audit log; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: OrderedDict[_Look, float] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, person: Person, act: str, *, identity: str | None = None, detail: str = "") -> None:
        """Add a look unless the same one was added lately. Raises DatabaseUnavailable: then nothing may be shown."""
        self._record(person, [(person.digest, act, identity, detail)])

    def record_patients(self, person: Person, identities: Sequence[str]) -> None:
        """Add that a user was shown whom these uploads are of, an entry for each. Raises DatabaseUnavailable."""
        self.record_all(person, SAW_PATIENT, identities)

    def record_all(self, person: Person, act: str, identities: Sequence[str], detail: str = "") -> None:
        """Add a look at each of these uploads. Raises DatabaseUnavailable."""
        self._record(person, [(person.digest, act, identity, detail) for identity in identities])

    def _record(self, person: Person, looks: Sequence[_Look]) -> None:
        with self._lock:
            began = time.monotonic()
            fresh = [look for look in looks if began - self._recent.get(look, -AGAIN_SECONDS) >= AGAIN_SECONDS]
        if not fresh:
            return
        with self._database.writing() as session:
            for _, act, identity, detail in fresh:
                audit.record(session, person.who, person.role, act, identity=identity, detail=detail)
        with self._lock:
            for look in fresh:
                self._recent[look] = time.monotonic()
                self._recent.move_to_end(look)
            while len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)


def detail_of(wanted: Filter, place: str = "") -> str:
    """What a list showed. Of a search term, which may be a name, only the beginning of its sha256."""
    term = hashlib.sha256(wanted.q.encode("utf-8", "surrogateescape")).hexdigest()[:16] if wanted.q else ""
    values = {name: getattr(wanted, name) for name in ("view", "task", "label", "version", "age")}
    values |= {"search": term and f"sha256:{term}", "from": place}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value)
