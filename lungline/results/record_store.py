"""Result records in the results bucket: saved once, read, and listed.

One name of a record follows from the upload and the model version, so saving and finding take as long with many records
as with few. The other lists it among the latest (`lungline.results.latest_list`), and is stored before: the record is
the commit point. Keys of records contain no name; a log line about a foreign object does not repeat its name.
"""

import logging
from collections.abc import Iterator
from datetime import datetime

from pydantic import ValidationError

from lungline import bounds
from lungline.errors import LunglineError, ObjectGone, StorageUnavailable, Unavailable
from lungline.results.latest_list import LATEST, list_record, listed_before, parts_of
from lungline.results.records import PREFIX, ResultRecord, knows_more
from lungline.storage.s3 import Storage

_log = logging.getLogger("lungline.results")


def save(storage: Storage, bucket: str, record: ResultRecord, *, listed: bool = False) -> ResultRecord:
    """Store a record unless one with the same or a better outcome exists; returns the one that is stored now.

    `listed` says that it has been listed among the latest.
    """
    if not listed:
        list_record(storage, bucket, record)
    return keep(storage, bucket, record.key, record)


def keep(storage: Storage, bucket: str, key: str, record: ResultRecord) -> ResultRecord:
    """Store a record at a key unless one with the same or a better outcome is there; returns the stored one."""
    data = record.model_dump_json().encode()
    if storage.put_if_absent(bucket, key, data, "application/json"):
        return record
    stored = load(storage, bucket, key) if record.outcome != "judged" else _load_unless_cut(storage, bucket, key)
    if stored and not knows_more(record.outcome, stored.outcome):
        return stored
    storage.put(bucket, key, data, "application/json")
    return record


def _load_unless_cut(storage: Storage, bucket: str, key: str) -> ResultRecord | None:
    """None for a record that a power cut left without its content, before it was acknowledged.

    Only for a record that knows as much as any: a store that is slow for a moment must not lose a better one.
    """
    try:
        return load(storage, bucket, key)
    except StorageUnavailable:
        if storage.exists(bucket, key):
            return None
        raise


def load(storage: Storage, bucket: str, key: str) -> ResultRecord:
    """The record at a key. Raises ObjectGone, or LunglineError when the object is not a record."""
    try:
        return ResultRecord.model_validate_json(storage.get(bucket, key, max_bytes=bounds.MAX_RECORD_BYTES).data)
    except ValidationError as exc:
        raise LunglineError(f"The object {key} in bucket {bucket} is not a result record.") from exc


def load_or_none(storage: Storage, bucket: str, key: str) -> ResultRecord | None:
    """The record at a key; None when it is gone or is not a record. Raises StorageUnavailable."""
    try:
        return load(storage, bucket, key)
    except Unavailable:
        raise
    except LunglineError as exc:
        if not isinstance(exc, ObjectGone):
            # Without its name, which may hold anything.
            _log.warning("An object among the results is not a result record; it is passed over.")
        return None


def find(storage: Storage, bucket: str, identity: str) -> list[ResultRecord]:
    """The records of one upload, one per model version."""
    return [record for record in _scan(storage, bucket, f"{PREFIX}{identity[:2]}/{identity}/") if record]


def is_known(storage: Storage, bucket: str, identity: str) -> bool:
    """Whether an upload has a record, by whichever model version."""
    return any(True for _ in storage.list(bucket, f"{PREFIX}{identity[:2]}/{identity}/"))


def identities(storage: Storage, bucket: str, shard: str) -> Iterator[str]:
    """Identities of the uploads that have a record and begin with these two digits, in their order; reads no record."""
    return storage.folders(bucket, f"{PREFIX}{shard}/")


def latest(storage: Storage, bucket: str, count: int) -> list[ResultRecord]:
    """The records of the latest uploads, the latest first; costs the same however many there are."""
    records: dict[str, tuple[str, ResultRecord]] = {}
    last = ""
    for info in storage.list(bucket, LATEST, page_size=2 * count):
        if (parts := parts_of(info.key)) is None:
            continue
        second, keys, _ = parts
        if len(records) >= count and second != last:
            break  # all of one second, for the store does not say which of them came first
        last = second
        for key in keys:
            # None also where the record was never written.
            if key not in records and (record := load_or_none(storage, bucket, key)):
                records[key] = (second, record)
    by_time = sorted(records.values(), key=lambda pair: pair[1].times.done, reverse=True)
    return [record for _, record in sorted(by_time, key=lambda pair: pair[0])][:count]


def every_identity(storage: Storage, bucket: str) -> set[str]:
    """Identities of all uploads that have a record; reads none."""
    return {parts[2] for info in storage.list(bucket, PREFIX) if len(parts := info.key.split("/")) == 4}


def identities_before(storage: Storage, bucket: str, moment: datetime) -> set[str]:
    """Identities of uploads that are listed as of before a moment, or whose record was stored before it."""
    stored = (info.key for info in storage.list(bucket, PREFIX) if info.modified < moment)
    return set(listed_before(storage, bucket, moment)) | {
        parts[2] for key in stored if len(parts := key.split("/")) == 4
    }


def every(storage: Storage, bucket: str) -> Iterator[ResultRecord]:
    """All records, in no particular order; fetched lazily."""
    return (record for record in scan(storage, bucket) if record)


def scan(storage: Storage, bucket: str) -> Iterator[ResultRecord | None]:
    """All records, and None for each other object among them: a foreign file hides no record."""
    return _scan(storage, bucket, PREFIX)


def _scan(storage: Storage, bucket: str, prefix: str) -> Iterator[ResultRecord | None]:
    for info in storage.list(bucket, prefix):
        if info.key.endswith(".json"):
            yield load_or_none(storage, bucket, info.key)
