"""The database again from what lies in S3: result records, and what readers said of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pydantic import ValidationError

from lungline.errors import EventMalformed, ObjectGone
from lungline.results import records as results
from lungline.results.events import check
from lungline.results.readings import PREFIX, ReadingRecord
from lungline.storage.s3 import Storage
from worklist.database import counters, ingest, readings
from worklist.database.session import Database

BATCH = 500

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild read, what of it was new, and how many records it could not believe."""

    records: int = 0
    readings: int = 0
    added: int = 0
    odd: int = 0


def rebuild(
    database: Database, storage: Storage, bucket: str, on_progress: Callable[[int], None] | None = None
) -> Rebuilt:
    """Take in everything that lies in the results bucket; what is here already stays, and nobody is told.

    Raises StorageUnavailable and DatabaseUnavailable; what was taken in until then stays.
    """
    count = added = odd = said = 0
    for batch in _batched(results.every(storage, bucket)):
        with database.writing() as session:
            for record in batch:
                try:
                    check(record)
                except EventMalformed:
                    odd += 1
                else:
                    added += ingest.add(session, record)
                    if record.outcome == "refused":  # its event was dead-lettered
                        counters.count_dead_letter(session, record.upload.identity, "400")
        count += len(batch)
        if on_progress:
            on_progress(count)
    for batch in _batched(_readings(storage, bucket)):
        with database.writing() as session:
            said += sum(readings.restore(session, reading) for reading in batch)
    return Rebuilt(records=count, readings=said, added=added, odd=odd)


def _readings(storage: Storage, bucket: str) -> Iterator[ReadingRecord]:
    for info in storage.list(bucket, PREFIX):
        try:
            yield ReadingRecord.model_validate_json(storage.get(bucket, info.key).data)
        except (ObjectGone, ValidationError):  # removed since it was listed, or not ours
            continue


def _batched(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    ordered = iter(items)
    while batch := list(islice(ordered, BATCH)):
        yield batch
