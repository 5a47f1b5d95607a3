"""Rebuild the database from S3: result records and readings."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from lungline.results import readings as stored_readings
from lungline.results import records as results
from lungline.results.events import is_consistent
from lungline.storage.s3 import Storage
from worklist.database import counters, readings
from worklist.database.ingest import ingest
from worklist.database.session import Database

BATCH = 500

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The numbers of records and readings that a rebuild read, added, and skipped.

    `odd` are foreign objects and impossible records.
    """

    records: int = 0
    readings: int = 0
    added: int = 0
    odd: int = 0


def rebuild(
    database: Database, storage: Storage, bucket: str, on_progress: Callable[[int], None] | None = None
) -> Rebuilt:
    """Add everything in the results bucket that the database lacks; no notices are sent.

    Raises StorageUnavailable and DatabaseUnavailable; batches stored until then are kept.
    """
    count = added = odd = restored = 0
    for batch in _batched(results.scan(storage, bucket)):
        valid = [record for record in batch if record and is_consistent(record)]
        added += ingest(database, *valid)
        with database.writing() as session:
            for record in valid:
                if record.outcome == "refused":  # its event was dead-lettered
                    counters.count_dead_letter(session, record.upload.identity, "400")
        count += len(batch)
        odd += len(batch) - len(valid)
        if on_progress:
            on_progress(count)
    for batch in _batched(stored_readings.stored(storage, bucket)):
        with database.writing() as session:
            restored += sum(readings.restore(session, reading) for reading in batch if reading)
    return Rebuilt(records=count, readings=restored, added=added, odd=odd)


def _batched(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
