"""Results on their way into the database: those that arrive together are stored in one transaction.

While one transaction runs, other results gather for the next, so a single one waits for nothing and a thousand cost a
fifth each. `add` returns when its own are stored: nobody is answered before.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lungline.errors import Unavailable
from lungline.results.patients import PatientRecord
from lungline.results.records import ResultRecord

Ingest = Callable[[Sequence[ResultRecord], Sequence[PatientRecord]], Sequence[ResultRecord]]
"""Stores results and patients in one transaction; returns those results that changed something."""


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    """What one thread brings, and which of its results changed something."""

    records: Sequence[ResultRecord]
    patients: Sequence[PatientRecord]
    changed: "Future[list[ResultRecord]]" = field(default_factory=Future[list[ResultRecord]])

    def stored(self, changed: Sequence[ResultRecord]) -> None:
        """It is stored, with others perhaps."""
        objects = {id(record) for record in changed}
        self.changed.set_result([record for record in self.records if id(record) in objects])


class Intake:
    """Stores what several threads bring."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._waiting: list[_Arrival] = []
        self._gathering = threading.Lock()
        self._turn = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many threads have brought what no transaction has begun to store."""
        return len(self._waiting)

    def add(self, records: Sequence[ResultRecord], patients: Sequence[PatientRecord]) -> list[ResultRecord]:
        """Store results and their patients; returns the results that changed something. Raises DatabaseUnavailable."""
        arrival = _Arrival(records, patients)
        with self._gathering:
            self._waiting.append(arrival)
        with self._turn:
            if not arrival.changed.done():  # nobody before has taken it along
                with self._gathering:
                    together, self._waiting = self._waiting, []
                self._store(together)
        return arrival.changed.result()

    def _store(self, together: Sequence[_Arrival]) -> None:
        try:
            records = [record for arrival in together for record in arrival.records]
            changed = self._ingest(records, [patient for arrival in together for patient in arrival.patients])
        except BaseException as exc:  # noqa: BLE001 - whoever waits must be told, whatever it is
            if isinstance(exc, Exception) and not isinstance(exc, Unavailable) and len(together) > 1:
                for arrival in together:  # one that cannot be stored fails alone
                    self._store([arrival])
                return
            for arrival in together:
                arrival.changed.set_exception(exc)
        else:
            for arrival in together:
                arrival.stored(changed)
