"""The parts of a dossier that lie in the store: object, pictures, patient, second opinions, readings."""

import hashlib
from collections.abc import Sequence

from lungline.dossier.gaps import Gaps
from lungline.dossier.parts import HoldFacts, ObjectFacts, OpinionFacts, WorklistPart
from lungline.dossier.pictures import Picture, pictures_of
from lungline.dossier.sources import Sources
from lungline.errors import ObjectGone
from lungline.results import opinions, patients, readings
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.retention.holds import Holds
from lungline.retention.subjects import Subject
from lungline.storage.objects import StoredObject


def object_and_pictures(
    record: ResultRecord, sources: Sources, gaps: Gaps
) -> tuple[ObjectFacts | None, tuple[Picture, ...]]:
    """The uploaded object as it is now, and what it shows; read once, in the memory that images may have.

    Raises Busy.
    """
    with sources.limits.work():
        sources.limits.take(record.read.size if record.read else 0)
        stored = gaps.attempt("uploaded object", lambda: _read(record, sources), "the uploads bucket no longer has it")
        if stored is None:
            return None, ()
        facts = _facts(record, stored)
        if record.outcome != "judged":
            return facts, ()
        if not facts.as_judged:
            gaps.note("pictures", "the object was overwritten since it was judged")
            return facts, ()
        return facts, gaps.attempt("pictures", lambda: pictures_of(record, stored.data, sources)) or ()


def patient_of(results: Sequence[ResultRecord], sources: Sources, gaps: Gaps) -> patients.PatientRecord | None:
    """Whom the upload is of, where a result names a patient record."""
    named = next((record for record in results if record.patient), None)
    if named is None:
        return None
    bucket, identity = sources.settings.patients_bucket, named.upload.identity
    lost = "the patients bucket has no record of this upload"
    return gaps.attempt("patient", lambda: patients.load(sources.storage, bucket, identity), lost)


def holds_on(
    identity: str, patient: patients.PatientRecord | None, sources: Sources, gaps: Gaps
) -> tuple[HoldFacts, ...]:
    """The legal holds on the upload or its patient, the oldest first."""
    subject = Subject.of(identity, None, patient)
    every = gaps.attempt("legal holds", Holds(sources.storage, sources.settings).every) or []
    return tuple(
        HoldFacts(id=hold.id, on="upload" if hold.identity else "patient", by=hold.by, reason=hold.reason, at=hold.at)
        for hold in every
        if hold.is_on(subject)
    )


def opinions_of(identity: str, sources: Sources, gaps: Gaps) -> tuple[OpinionFacts, ...]:
    """The second opinions on the upload, the earliest first."""
    bucket = sources.settings.results_bucket
    given = gaps.attempt("second opinions", lambda: list(opinions.of_upload(sources.storage, bucket, identity))) or []
    given.sort(key=lambda opinion: opinion.record.times.done)
    return tuple(OpinionFacts(purpose=each.purpose, record=each.record) for each in given)


def readings_of(
    identity: str, worklist: WorklistPart | None, sources: Sources, gaps: Gaps
) -> tuple[ReadingRecord, ...]:
    """The readings of the store, and those of the worklist that are not there yet; the earliest first."""
    bucket = sources.settings.results_bucket
    kept = gaps.attempt("readings", lambda: readings.of_upload(sources.storage, bucket, identity)) or []
    every = {reading.id: reading for reading in (*(worklist.readings if worklist else ()), *kept)}
    return tuple(sorted(every.values(), key=lambda reading: reading.at))


def _read(record: ResultRecord, sources: Sources) -> StoredObject | None:
    upload = record.upload
    try:
        return sources.storage.get(upload.bucket, upload.key, upload.version_id, sources.limits.max_bytes)
    except ObjectGone:
        return None


def _facts(record: ResultRecord, stored: StoredObject) -> ObjectFacts:
    return ObjectFacts(
        bucket=record.upload.bucket,
        key=record.upload.key,
        version_id=stored.version_id,
        etag=stored.etag,
        size=stored.size,
        modified=stored.modified,
        sha256=hashlib.sha256(stored.data).hexdigest(),
        as_judged=record.read is None or record.read.etag == stored.etag,
    )
