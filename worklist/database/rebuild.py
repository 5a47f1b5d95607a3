"""Rebuild the database from S3: result records, readings, and what was delivered to other systems."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sqlalchemy import delete, select

from lungline.results import opinions as stored_opinions
from lungline.results import readings as stored_readings
from lungline.results import record_store
from lungline.results import records as results
from lungline.results.events import is_consistent
from lungline.results.patients import patients_of
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database import counters, delivered, erased, readings
from worklist.database import opinions as second_opinions
from worklist.database.ingest import ingest
from worklist.database.models import Checkpoint, WorklistEntry
from worklist.database.session import Database
from worklist.destinations import load_destinations
from worklist.tasks import task_of

BATCH = 500
# Marks a restoration that has begun: a process that dies meanwhile leaves a list that is neither empty nor whole.
UNFINISHED = "restoration-unfinished"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The numbers of records and readings that a rebuild read, added, and skipped.

    `odd` are foreign objects and impossible records; `delivered` is what it learned was delivered, `due` what was not.
    """

    records: int = 0
    readings: int = 0
    added: int = 0
    odd: int = 0
    delivered: int = 0
    due: int = 0


def rebuild(
    database: Database, storage: Storage, settings: Settings, on_progress: Callable[[int], None] | None = None
) -> Rebuilt:
    """Add everything in the results bucket that the database lacks, and whom it is of; notices wait for events.

    What was delivered is taken up first, so that nothing of it is due for a moment. Raises SettingsError for a bad file
    of destinations, StorageUnavailable and DatabaseUnavailable; batches stored until then are kept.
    """
    bucket, destinations = settings.results_bucket, load_destinations(settings.worklist.destinations, task_of(settings))
    sent = delivered.restore(database, storage, bucket)
    count = added = odd = restored = 0
    for batch in _batched(record_store.scan(storage, bucket)):
        valid = [record for record in batch if record and is_consistent(record)]
        valid = _without_erased(database, storage, valid)
        added += ingest(database, *valid, patients=patients_of(valid, storage, settings.patients_bucket))
        with database.writing() as session:
            for record in valid:
                if record.outcome == "refused" and not record.is_set_aside:  # its event was dead-lettered
                    counters.count_dead_letter(session, record.upload.identity, "400")
        count += len(batch)
        odd += len(batch) - len(valid)
        if on_progress:
            on_progress(count)
    for opinions in _batched(stored_opinions.every(storage, bucket)):
        consistent = [each for each in opinions if is_consistent(each.record)]
        stay = {each.id for each in _without_erased(database, storage, [each.record for each in consistent])}
        second_opinions.store(database, [each for each in consistent if each.record.id in stay])
    for batch in _batched(stored_readings.stored(storage, bucket)):
        with database.writing() as session:
            restored += sum(readings.restore(session, reading) for reading in batch if reading)
    due = delivered.queue_missing(database, storage, bucket, destinations)
    return Rebuilt(records=count, readings=restored, added=added, odd=odd, delivered=sent, due=due)


def _without_erased(database: Database, storage: Storage, records: list[ResultRecord]) -> list[ResultRecord]:
    """Without results of erased uploads that have come back, until the next erasure deletes them."""
    with database.reading() as session:
        marked = erased.among(session, (record.upload.identity for record in records))
    return erased.sent_again(database, storage, records, marked) if marked else records


@dataclass(slots=True)
class Restoration:
    """Whether the list is being restored from the store, and how many results were read so far."""

    needed: bool = False
    running: bool = False
    results: int = 0

    @classmethod
    def of(cls, database: Database) -> "Restoration":
        """Whether one is needed or has not ended, asked before the first result comes. Raises DatabaseUnavailable."""
        with database.reading() as session:
            is_empty = session.scalar(select(WorklistEntry.number).limit(1)) is None
            return cls(needed=is_empty or session.get(Checkpoint, UNFINISHED) is not None)

    def restore(self, database: Database, storage: Storage, settings: Settings) -> Rebuilt | None:
        """Rebuild an empty database beside a bucket that has results, once; None when there is nothing to do.

        A lost database would show an empty list, and nobody would miss the X-rays on it. Raises StorageUnavailable and
        DatabaseUnavailable, after which another call goes on.
        """
        if not self.needed:
            return None
        self.running = any(True for _ in storage.list(settings.results_bucket, results.PREFIX, page_size=1))
        try:
            done = self._rebuild(database, storage, settings) if self.running else None
        finally:
            self.running = False
        self.needed = False
        return done

    def _rebuild(self, database: Database, storage: Storage, settings: Settings) -> Rebuilt:
        with database.writing() as session:
            session.merge(Checkpoint(name=UNFINISHED, value=1))
        done = rebuild(database, storage, settings, self._count)
        with database.writing() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.name == UNFINISHED))
        return done

    def _count(self, number: int) -> None:
        self.results = number


def _batched(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
