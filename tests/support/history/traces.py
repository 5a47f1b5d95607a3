"""What a run left behind, as operations: objects, records, readings, the worklist's database, the promotion history."""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from laptop import stack
from lungline.deployment.laptop import LaptopDeployment
from lungline.errors import StorageUnavailable
from lungline.events.uploads import Upload
from lungline.registry.history import History as Promotions
from lungline.results import readings
from lungline.results.events import is_consistent
from lungline.results.opinions import PURPOSES
from lungline.results.record_store import load_or_none
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.history.operations import Operation

_IDENTITY = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
PLACES = ("results", *PURPOSES)
"""Where answers lie in the results bucket, and second opinions."""


def traces(settings: Settings) -> list[Operation]:
    """All that a running stack has kept. Raises LunglineError and sqlite3.OperationalError while a part is down."""
    connected = stack.connect(settings)
    with closing(Storage.from_settings(connected)) as storage:
        return [
            *_objects(storage, connected.uploads_bucket),
            *_records(storage, connected.results_bucket),
            *_files(storage, connected.results_bucket, connected.patients_bucket),
            *_stored_readings(storage, connected.results_bucket),
            *worklist(settings.home / "worklist/worklist.db"),
            *promotions(connected),
        ]


def object_of(upload: Upload) -> str:
    """A digest that stands for the key, which may name a patient."""
    return hashlib.sha256(upload.key.encode()).hexdigest()[:16]


def _objects(storage: Storage, bucket: str) -> Iterator[Operation]:
    """Uploads as they can be read, by what is in them: a list may name what has no content any more."""
    for info in storage.list(bucket):
        if (data := _content(storage, bucket, info.key)) is None:
            continue
        tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        upload = Upload(bucket, info.key, etag=tag)
        yield _at("store object", upload.identity, info.modified, {"object": object_of(upload)})


def _content(storage: Storage, bucket: str, key: str) -> bytes | None:
    """None for an object that the store names and cannot read: its content was cut. Raises StorageUnavailable."""
    try:
        return storage.get(bucket, key).data
    except StorageUnavailable:
        storage.head(bucket, key)
        return None


def _records(storage: Storage, bucket: str) -> Iterator[Operation]:
    for place in PLACES:
        for info in storage.list(bucket, f"{place}/"):
            if not info.key.endswith(".json"):
                continue
            filed = "/".join(info.key.removesuffix(".json").split("/")[-2:])
            record = load_or_none(storage, bucket, info.key) if _content(storage, bucket, info.key) else None
            yield record_operation(place, filed, record)


def record_operation(place: str, filed: str, record: ResultRecord | None) -> Operation:
    """A record as it lies in a place, filed under identity and version; None for an object that is no record."""
    if record is None:
        empty: dict[str, Any] = {"version": "", "outcome": "", "label": None, "object": "", "consistent": False}
        return Operation("predictor record", filed.partition("/")[0], {"place": place, "filed": filed} | empty)
    facts = record.upload
    value = {
        "place": place,
        "filed": filed,
        "version": record.model.version,
        "outcome": record.outcome,
        "label": record.label,
        "object": object_of(Upload(facts.bucket, facts.key)),
        "consistent": is_consistent(record),
    }
    received, done = record.times.received.timestamp(), record.times.done.timestamp()
    return Operation("predictor record", facts.identity, value, invoked=received, returned=done)


def _files(storage: Storage, *buckets: str) -> Iterator[Operation]:
    """Objects that are named after an upload: heatmaps, lists, captures, patients, whatever else there may be."""
    for bucket in buckets:
        for info in storage.list(bucket):
            for identity in _IDENTITY.findall(info.key):
                yield _at("store file", identity, info.modified, {"folder": info.key.partition("/")[0]})


def _stored_readings(storage: Storage, bucket: str) -> Iterator[Operation]:
    for reading in readings.stored(storage, bucket):
        if reading is None:
            yield Operation("store reading", value={"id": "", "verdict": None, "action": ""})
        else:
            value = {"id": reading.id, "verdict": reading.verdict, "action": reading.action}
            yield _at("store reading", reading.identity, reading.at, value)


def _at(name: str, subject: str, moment: datetime, value: dict[str, Any]) -> Operation:
    return Operation(name, subject, value, invoked=moment.timestamp(), returned=moment.timestamp())


# Each begins with the upload and a moment in microseconds; the other columns are values by their names.
_TABLES = {
    "worklist result": "SELECT identity, done, id AS record FROM records",
    "worklist entry": "SELECT identity, done, record, label, verdict FROM entries",
    "worklist notice": "SELECT identity, created, rule, step, target, state, label, acknowledged FROM notices",
    "worklist reading": "SELECT identity, at, id, verdict, action FROM readings",
    "worklist opinion": "SELECT identity, done, purpose AS place, version, label FROM opinions",
    "worklist audit": "SELECT identity, at, act FROM audit WHERE identity IS NOT NULL",
}


def worklist(file: Path) -> Iterator[Operation]:
    """The list, notices, readings and looks in a worklist's database."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
        for name, select in _TABLES.items():
            rows = database.execute(select)
            columns = [column[0] for column in rows.description]
            for identity, at, *values in rows:
                value = dict(zip(columns[2:], values, strict=True))
                yield Operation(name, identity, value, invoked=at / 1e6, returned=at / 1e6)


def promotions(connected: Settings) -> Iterator[Operation]:
    """The entries of the promotion history as they are stored, and the version that serves."""
    for place, stored in enumerate(Promotions.from_settings(connected).stored(), 1):
        entry = stored.entry
        value = {
            "place": place,
            "number": entry.number,
            "act": entry.act,
            "version": entry.version,
            "champion": entry.champion,
            "intact": stored.true_hash == entry.hash,
        }
        yield _at("history entry", "", entry.at, value)
    version = LaptopDeployment.from_settings(connected).serving()
    yield Operation("predictor serving", value={"version": version})
