"""Whether the store still has what the list shows: a list that looks complete may stand beside an empty bucket.

A few results are looked at, the newest and the oldest; when one is missing, all are counted. X-rays may be deleted on
purpose, so that only the newest count, and only when all of them are gone. Readings that are missing are stored again.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from lungline.errors import LunglineError, ObjectTooLarge, StorageUnavailable
from lungline.results import records as results
from lungline.results.latest_list import list_record
from lungline.results.records import ResultRecord
from lungline.storage.contents import loss_of
from lungline.storage.s3 import Storage
from lungline.wording import count
from worklist.database.models import ReadingRow, ResultRow, WorklistEntry
from worklist.database.readings import record_of
from worklist.database.session import Database

LOOKED_AT = 4
"""Results at either end, and X-rays."""
BATCH = 200

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Losses:
    """How many of the list's results the store lacks, and how many of its newest X-rays, when it lacks all of these."""

    results: int = 0
    images: int = 0
    buckets: str = ""
    """A sentence on lost buckets, which a laptop's stack notices when it starts."""

    def look(self, database: Database, storage: Storage, bucket: str, home: Path) -> None:
        """Look again. Raises StorageUnavailable and DatabaseUnavailable."""
        self.buckets = loss_of(home)
        with database.reading() as session:
            sample, read, newest = _sample(session), _readings(session), _newest(session)
            total = session.scalar(select(func.count()).select_from(ResultRow)) or 0
        missing = sum(_lacks(storage, bucket, key) for key in sample)
        self.results = max(missing, total - _stored(storage, bucket)) if missing else 0
        gone = sum(_lacks(storage, *place) for place in newest)
        self.images = gone if gone == len(newest) else 0
        if any(_lacks(storage, bucket, key) for key in read):
            _store_again(database)

    @property
    def sentence(self) -> str:
        """What is lost, for a person; empty when nothing is."""
        lacks = [count(self.results, "result")] if self.results else []
        lacks += [f"the newest {count(self.images, 'X-ray')}"] if self.images else []
        list_lacks = f"The store lacks {' and '.join(lacks)} of this list." if lacks else ""
        return " ".join(filter(None, (self.buckets, list_lacks)))


def put_back(database: Database, storage: Storage, bucket: str) -> int:
    """Store the results that the database has and the bucket lacks, and all readings; returns how many results.

    Their X-rays, and the heatmaps of earlier versions, are not in the database. Raises StorageUnavailable and
    DatabaseUnavailable.
    """
    done = 0
    for record in _records(database):
        if not storage.put_if_absent(bucket, record.key, record.model_dump_json().encode(), "application/json"):
            continue
        done += 1
        if record.heatmap is None or not storage.exists(bucket, record.heatmap):
            list_record(storage, bucket, record)
    _store_again(database)
    return done


def _records(database: Database) -> Iterator[ResultRecord]:
    last = ""
    while True:
        with database.reading() as session:
            rows = session.execute(
                select(ResultRow.id, ResultRow.body).where(ResultRow.id > last).order_by(ResultRow.id).limit(BATCH)
            ).all()
        if not rows:
            return
        last = rows[-1].id
        yield from (ResultRecord.model_validate_json(row.body) for row in rows)


def _sample(session: Session) -> list[str]:
    """Keys of the records of the newest and of the oldest uploads."""
    shown = select(ResultRow.body).join(WorklistEntry, WorklistEntry.record == ResultRow.id)
    ends = (WorklistEntry.arrived.desc(), WorklistEntry.arrived.asc())
    bodies = {body for end in ends for body in session.scalars(shown.order_by(end).limit(LOOKED_AT))}
    return [ResultRecord.model_validate_json(body).key for body in bodies]


def _readings(session: Session) -> list[str]:
    """Keys of the newest and of the oldest reading that are stored."""
    saved = select(ReadingRow).where(ReadingRow.saved == 1).limit(1)
    rows = [session.scalar(saved.order_by(end)) for end in (ReadingRow.number.desc(), ReadingRow.number.asc())]
    return [record_of(row).key for row in rows if row]


def _newest(session: Session) -> list[tuple[str, str]]:
    """Bucket and key of the newest X-rays that were there when they were read."""
    there = WorklistEntry.outcome.in_(("judged", "refused"))
    columns = select(WorklistEntry.bucket, WorklistEntry.key).where(there)
    return [
        (row.bucket, row.key)
        for row in session.execute(columns.order_by(WorklistEntry.arrived.desc()).limit(LOOKED_AT))
    ]


def _lacks(storage: Storage, bucket: str, key: str) -> bool:
    """Whether an object cannot be read for good; not even its first byte is fetched."""
    try:
        storage.get(bucket, key, max_bytes=0)
    except ObjectTooLarge:
        return False
    except StorageUnavailable:
        if storage.exists(bucket, key):  # the store answers, and what it lists is on no volume
            return True
        raise
    except LunglineError:  # the object or its bucket is gone
        return True
    return False


def _stored(storage: Storage, bucket: str) -> int:
    try:
        return sum(info.key.endswith(".json") for info in storage.list(bucket, results.PREFIX))
    except StorageUnavailable:
        raise
    except LunglineError:  # there is no such bucket
        return 0


def _store_again(database: Database) -> None:
    """Let the job that stores readings store all of them once more; those that are there stay as they are."""
    with database.writing() as session:
        session.execute(update(ReadingRow).values(saved=0))
    _log.warning("The store lacks readings of this list: they are stored again.")
