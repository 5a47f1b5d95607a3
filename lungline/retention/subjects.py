"""Which uploads are meant: one by its identity, or all of a patient, wherever something of them lies.

A patient is known by the Patient ID of the DICOM header, as the patients bucket has it, and by the pattern of the
setting worklist.patient_pattern in an object's key. Both buckets are listed whole: what is left out is not erased.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from lungline.datasets.dataset import patient_in, patient_pattern
from lungline.errors import EventMalformed
from lungline.events.uploads import Upload
from lungline.results import patients, record_store
from lungline.results.patients import PatientRecord
from lungline.settings import Settings
from lungline.storage.objects import ObjectInfo
from lungline.storage.s3 import Storage


class Subject(BaseModel):
    """One upload: its identity, the object, and what names it elsewhere; empty texts where nothing says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    identity: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    bucket: str = ""
    key: str = Field(default="", repr=False)
    version_id: str | None = None
    etag: str | None = None
    patient_id: str = Field(default="", repr=False)
    issuer: str = Field(default="", repr=False)
    instance_uid: str = Field(default="", repr=False)

    @classmethod
    def of(cls, identity: str, upload: Upload | None, patient: PatientRecord | None) -> "Subject":
        """What is known of an upload."""
        named = {} if patient is None else patient.model_dump(include={"patient_id", "issuer", "instance_uid"})
        if upload is None:
            return cls(identity=identity, **named)
        place = {"bucket": upload.bucket, "key": upload.key, "version_id": upload.version_id, "etag": upload.etag}
        return cls(identity=identity, **place, **named)


def of_identities(
    identities: Iterable[str], storage: Storage, settings: Settings, *, older: bool = False
) -> list[Subject]:
    """The uploads with these identities, with `older` also those of older versions of their objects.

    Raises StorageUnavailable.
    """
    wanted = list(dict.fromkeys(identities))
    uploads = {each: _recorded(each, storage, settings) for each in wanted}
    if any(upload is None for upload in uploads.values()):  # never judged, or its records are gone
        listed = {upload.identity: upload for _, upload in stored_uploads(storage, settings)}
        uploads = {each: upload or listed.get(each) for each, upload in uploads.items()}
    if older and storage.keeps_versions(settings.uploads_bucket):
        before = [each for upload in uploads.values() if upload for each in _older(upload, storage)]
        uploads = {each.identity: each for each in before} | uploads
    return [_subject(each, upload, storage, settings) for each, upload in uploads.items()]


def of_patient(patient_id: str, storage: Storage, settings: Settings, issuer: str | None = None) -> list[Subject]:
    """All uploads of a patient; of whichever issuer unless one is named. Raises StorageUnavailable."""
    named = {
        record.identity
        for record in patients.every(storage, settings.patients_bucket)
        if record.patient_id == patient_id and issuer in (None, record.issuer)
    }
    pattern = patient_pattern(settings.worklist.patient_pattern) if settings.worklist.patient_pattern else None
    if pattern is not None:
        named |= _named_in_keys(patient_id, pattern, storage, settings)
    return of_identities(sorted(named), storage, settings, older=True)


def stored_uploads(storage: Storage, settings: Settings) -> Iterator[tuple[datetime, Upload]]:
    """When each X-ray in the uploads bucket was stored, and its upload; raises StorageUnavailable."""
    for info in storage.latest(settings.uploads_bucket):
        if upload := _upload(settings.uploads_bucket, info):
            yield info.modified, upload


def to_the_oldest(versions: Sequence[ObjectInfo], upload: Subject | Upload) -> Sequence[ObjectInfo]:
    """The versions from an upload's own on, and the marks of its deletion; what came after it is another's."""
    own = (
        at
        for at, info in enumerate(versions)
        if info.etag and (info.version_id == upload.version_id if upload.version_id else info.etag == upload.etag)
    )
    first = next(own, len(versions))
    while first > 0 and not versions[first - 1].etag:
        first -= 1
    return versions[first:]


def _older(upload: Upload, storage: Storage) -> Iterator[Upload]:
    """The uploads that an object was before, its own among them: each version is one of its own."""
    for info in to_the_oldest(storage.versions(upload.bucket, upload.key), upload):
        if info.etag:
            yield Upload(upload.bucket, upload.key, info.version_id, info.etag)


def _recorded(identity: str, storage: Storage, settings: Settings) -> Upload | None:
    """The upload as one of its records has it."""
    for record in record_store.find(storage, settings.results_bucket, identity):
        facts = record.upload
        return Upload(facts.bucket, facts.key, facts.version_id, facts.etag)
    return None


def _subject(identity: str, upload: Upload | None, storage: Storage, settings: Settings) -> Subject:
    subject = Subject.of(identity, upload, patients.load_or_none(storage, settings.patients_bucket, identity))
    if subject.patient_id or not subject.key or not settings.worklist.patient_pattern:
        return subject
    named = patient_in(subject.key, patient_pattern(settings.worklist.patient_pattern))
    return subject.model_copy(update={"patient_id": named or ""})


def _named_in_keys(patient: str, pattern: re.Pattern[str], storage: Storage, settings: Settings) -> set[str]:
    """Uploads in whose keys a patient stands, of those that are stored and those that have a result."""
    stored = (upload for _, upload in stored_uploads(storage, settings))
    named = {upload.identity for upload in stored if patient_in(upload.key, pattern) == patient}
    judged = record_store.every(storage, settings.results_bucket)
    return named | {each.upload.identity for each in judged if patient_in(each.upload.key, pattern) == patient}


def _upload(bucket: str, info: ObjectInfo) -> Upload | None:
    try:
        return Upload(bucket, info.key, info.version_id, info.etag, None, info.size, info.modified)
    except EventMalformed:  # a key that no event can carry was never judged
        return None
