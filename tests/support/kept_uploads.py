"""An upload with everything that is made of it in a store and in a worklist's database, for tests of its erasure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from laptop.erasing.site import SitePlaces
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.deidentification.research import research_name
from lungline.events.uploads import Upload
from lungline.results import opinions, patients, record_store
from lungline.results.patients import PatientRecord
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.retention.erasure import Eraser
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.worklist_site import record
from worklist.database import readings
from worklist.database.entries import find
from worklist.database.ingest import ingest
from worklist.database.models import Table
from worklist.database.session import Database

NAMED = ("DOE^JANE", "PID-4711", "Doe-Jane")


@dataclass(frozen=True)
class KeptUploads:
    """A store with buckets of its own, and a worklist's database."""

    storage: Storage
    settings: Settings
    database: Database

    @classmethod
    def make(cls, storage: Storage, folder: Path, name: str, **values: Any) -> "KeptUploads":
        """In buckets whose names begin with `name`."""
        kinds = ("uploads", "results", "patients", "research")
        buckets = {f"{kind}_bucket": f"{name}-{kind}" for kind in kinds}
        storage.ensure_buckets(*buckets.values())
        return cls.there(storage, folder, **buckets, **values)

    @classmethod
    def there(cls, storage: Storage, folder: Path, **values: Any) -> "KeptUploads":
        """In buckets that are there; `values` are settings."""
        secret = {"research_secret": SecretStr("a secret of the tests")}
        settings = Settings.model_validate({"home": folder, **secret, **values})
        return cls(storage, settings, Database.open(settings))

    def empty(self) -> None:
        """Take everything out again."""
        for bucket in self._buckets:
            for info in list(self.storage.list(bucket)):
                self.storage.delete(bucket, info.key)
        with self.database.writing() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(table.delete())

    @property
    def _buckets(self) -> tuple[str, ...]:
        ours = self.settings
        return ours.uploads_bucket, ours.results_bucket, ours.patients_bucket, ours.research_bucket

    @property
    def eraser(self) -> Eraser:
        return Eraser(self.storage, self.settings, SitePlaces(self.storage, self.settings, self.database), 0)

    def add(self, key: str, patient: str = "", *, days: float = 0, data: bytes = b"", **changes: Any) -> ResultRecord:
        """An upload with two results, a reading and copies in every bucket; of a patient where one is named."""
        ours, at = self.settings, datetime.now(UTC) - timedelta(days=days)
        etag = self.storage.put(ours.uploads_bucket, key, data or key.encode())
        upload = Upload(ours.uploads_bucket, key, None, etag)
        made = [
            _moved(record(key=key, etag=etag, arrived=at, version=version, **changes), upload) for version in ("1", "2")
        ]
        for each in made:
            record_store.save(self.storage, ours.results_bucket, each)
            self.storage.put(ours.results_bucket, f"owed/{each.id}", b"")
            opinions.save(self.storage, ours.results_bucket, each, "shadow")
            place = f"{upload.identity[:2]}/{upload.identity}/{each.model.version}"
            self.storage.put(ours.results_bucket, f"deliveries/{place}/pacs/preliminary.json", b"{}")
            self.storage.put(ours.patients_bucket, f"captures/{place}.dcm", patient.encode())
        whose = PatientRecord(identity=upload.identity, patient_id=patient, name="DOE^JANE", instance_uid="1.2.3")
        if patient:
            patients.save(self.storage, ours.patients_bucket, whose)
        name = research_name(upload.identity, Pseudonyms.from_settings(ours))
        for ending in (".png", ".json"):
            self.storage.put(ours.research_bucket, name + ending, b"{}")
        ingest(self.database, *made, patients=[whose] if patient else [])
        self._read(made[-1])
        return made[-1]

    def _read(self, result: ResultRecord) -> None:
        with self.database.writing() as session:
            entry = find(session, result.upload.identity)
            assert entry
            row = readings.read(session, entry, reader="dr.adams", action="read", verdict=None, findings={}, comment="")
            reading: ReadingRecord = readings.record_of(row)
        data = reading.model_dump_json().encode()
        self.storage.put(self.settings.results_bucket, reading.key, data, "application/json")

    def contents(self) -> Iterator[bytes]:
        """Names and contents of everything in the buckets and in the database's files."""
        yield from self.objects()
        for path in (self.settings.home / "worklist").iterdir():
            yield path.read_bytes()

    def objects(self) -> Iterator[bytes]:
        """Names and contents of everything in the buckets."""
        for bucket in self._buckets:
            for info in self.storage.list(bucket):
                yield json.dumps(info.key).encode()
                yield self.storage.get(bucket, info.key).data

    def names(self, *words: str) -> list[str]:
        """Those of some words that stand anywhere."""
        everything = list(self.contents())
        return [word for word in words if any(word.encode() in content for content in everything)]


def _moved(result: ResultRecord, upload: Upload) -> ResultRecord:
    """The same result of an upload in another bucket."""
    facts = result.upload.model_copy(update={"bucket": upload.bucket, "identity": upload.identity})
    return result.model_copy(update={"upload": facts, "id": f"{upload.identity}-{result.model.version}"})
