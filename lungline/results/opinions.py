"""Second opinions: answers of another version that are not the answer to an upload.

    shadow/ab/abcdef.../4.json      what version 4 says of a live upload, while another version serves
    rejudged/ab/abcdef.../4.json    what version 4 says of an old upload, because somebody wanted to know

Each is a result record, at the path that it would have under `results/`. None is listed among the latest, and none
reaches notices, deliveries or the research bucket. What belongs to one upload lies under one prefix for each purpose,
so that it is read, and deleted, as fast with many records as with few.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from lungline.results import record_store
from lungline.results.purposes import PURPOSES, Purpose
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage

PREFIXES: dict[Purpose, str] = {"shadow": "shadow/", "rejudged": "rejudged/"}
"""Under which the records of each purpose lie in the results bucket."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A second opinion, and what it was given for."""

    purpose: Purpose
    record: ResultRecord


@dataclass(frozen=True, slots=True)
class Place:
    """Where a second opinion lies, as its name says; the record is not read."""

    purpose: Purpose
    identity: str
    version: str
    modified: datetime

    @property
    def key(self) -> str:
        """Its key in the results bucket."""
        return place(self.identity, self.version, self.purpose)


def place(identity: str, version: str, purpose: Purpose) -> str:
    """The key of an upload's second opinion by a version."""
    return f"{PREFIXES[purpose]}{identity[:2]}/{identity}/{version}.json"


def key_of(record: ResultRecord, purpose: Purpose) -> str:
    """The key of a record that is a second opinion."""
    return place(record.upload.identity, record.model.version, purpose)


def save(storage: Storage, bucket: str, record: ResultRecord, purpose: Purpose) -> ResultRecord:
    """Store a second opinion unless one that knows as much exists; returns the one that is stored now."""
    return record_store.keep(storage, bucket, key_of(record, purpose), record)


def load_or_none(storage: Storage, bucket: str, identity: str, version: str, purpose: Purpose) -> ResultRecord | None:
    """The second opinion of a version; None when there is none. Raises StorageUnavailable."""
    return record_store.load_or_none(storage, bucket, place(identity, version, purpose))


def keys_of_upload(storage: Storage, bucket: str, identity: str) -> Iterator[str]:
    """The keys of everything that lies among the second opinions of one upload, also what is no record."""
    for purpose in PURPOSES:
        yield from (info.key for info in storage.list(bucket, _folder(identity, purpose)))


def of_upload(storage: Storage, bucket: str, identity: str) -> Iterator[Opinion]:
    """The second opinions of one upload, by every version and for every purpose. Raises StorageUnavailable."""
    for purpose in PURPOSES:
        for info in storage.list(bucket, _folder(identity, purpose)):
            if record := record_store.load_or_none(storage, bucket, info.key):
                yield Opinion(purpose, record)


def places(storage: Storage, bucket: str, purpose: Purpose, version: str | None = None) -> Iterator[Place]:
    """Where the second opinions for a purpose lie, those of one version where it is given; reads no record."""
    for info in storage.list(bucket, PREFIXES[purpose]):
        _, _, rest = info.key.removeprefix(PREFIXES[purpose]).partition("/")
        identity, _, name = rest.partition("/")
        if name.endswith(".json") and version in (None, name.removesuffix(".json")):
            yield Place(purpose, identity, name.removesuffix(".json"), info.modified)


def every(storage: Storage, bucket: str) -> Iterator[Opinion]:
    """All second opinions, in no particular order; fetched lazily."""
    for purpose in PURPOSES:
        for each in places(storage, bucket, purpose):
            if record := record_store.load_or_none(storage, bucket, each.key):
                yield Opinion(purpose, record)


def _folder(identity: str, purpose: Purpose) -> str:
    return f"{PREFIXES[purpose]}{identity[:2]}/{identity}/"
