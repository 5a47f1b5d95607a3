"""Results that no event has announced: looked for among the latest, and taken in as if one had.

A predictor that dies between a record and its answer gets the event again, and answers with the same record. If another
version was promoted meanwhile, that version answers instead, and nobody would learn of the first record: it would have
no row, no notice and no delivery until the next rebuild. So it is with an answer that a broker has lost.

A result that is missing now may be on its way. It is taken in when it is still missing at the next look.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import select

from lungline.results.latest_list import keys_since
from lungline.storage.s3 import Storage
from lungline.wording import count
from worklist.database.models import ResultRow
from worklist.database.session import Database

LOOK_SECONDS, FAR_SECONDS = 30.0, 3600.0
NEAR, FAR = timedelta(hours=1), timedelta(days=7)
"""The age of the uploads that are looked at each time, and once an hour."""
_IN_ONE_QUESTION = 500

TakeIn = Callable[[Sequence[str]], None]
"""Stores all results of these uploads."""

_log = logging.getLogger(__name__)


class Unannounced:
    """Looks for results that the database lacks; for one thread at a time."""

    def __init__(self, database: Database, storage: Storage, bucket: str, take_in: TakeIn) -> None:
        self._database = database
        self._storage = storage
        self._bucket = bucket
        self._take_in = take_in
        self._due = time.monotonic() + LOOK_SECONDS
        self._far_due = self._due
        self._missing: dict[str, str] = {}
        """Ids of the results that were missing at the last look, with their uploads."""
        self._given_up: set[str] = set()
        """Listed and never saved, or not to be shown; tried again once an hour."""

    def look_when_due(self) -> None:
        """Look unless it is too early. Raises StorageUnavailable and DatabaseUnavailable."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK_SECONDS
            self.look()

    def look(self) -> int:
        """Take in what was missing before and still is; returns how many results that were.

        Raises StorageUnavailable and DatabaseUnavailable.
        """
        is_far = time.monotonic() >= self._far_due
        if is_far:
            self._far_due = time.monotonic() + FAR_SECONDS
            self._given_up.clear()
        waiting = self._lacking(self._missing)
        if waiting:
            self._take_in(sorted(set(waiting.values())))
        still = self._lacking(waiting)
        self._given_up |= still.keys()
        self._missing = dict(self._listed(datetime.now(UTC) - (FAR if is_far else NEAR)))
        if taken := len(waiting) - len(still):
            _log.warning("No event has announced %s; now on the list.", count(taken, "result"))
        return taken

    def _listed(self, since: datetime) -> Iterator[tuple[str, str]]:
        """The results of uploads since a moment that the database lacks."""
        listed = ((id_of(key), key.split("/")[2]) for key, _ in keys_since(self._storage, self._bucket, since))
        while part := dict(islice(listed, _IN_ONE_QUESTION)):
            lacking = self._lacking(part)
            yield from ((name, upload) for name, upload in lacking.items() if name not in self._given_up)

    def _lacking(self, results: dict[str, str]) -> dict[str, str]:
        """Those of some results that the database lacks."""
        stored: set[str] = set()
        with self._database.reading() as session:
            for part in _parts(results):
                stored.update(session.scalars(select(ResultRow.id).where(ResultRow.id.in_(part))))
        return {name: upload for name, upload in results.items() if name not in stored}


def id_of(key: str) -> str:
    """The id of the record at a key: upload and version."""
    _, _, identity, name = key.split("/", 3)
    return f"{identity}-{name.removesuffix('.json')}"


def _parts(names: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(names)
    while part := list(islice(iterator, _IN_ONE_QUESTION)):
        yield part
