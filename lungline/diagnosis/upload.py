"""From an upload in the bucket to a saved result record: fetch, predict, save, once.

The predictor, the laptop and a notebook call the same function.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from lungline.diagnosis.diagnoser import Diagnoser, Diagnosis, model_facts, refused, timed
from lungline.diagnosis.image_rules import load_image_rules, reason_not_meant
from lungline.diagnosis.routing import NO_TASK, Routing
from lungline.errors import Busy, LunglineError, ObjectGone, ObjectTooLarge, Unavailable, UploadErased
from lungline.events.uploads import Upload, require_bucket
from lungline.imaging import dicom, dicom_facts
from lungline.imaging.dicom_facts import facts_of
from lungline.imaging.dicom_header import DicomFile, find_header
from lungline.results import latest_list, opinions, patients, record_store, records
from lungline.results.listing import SharedListing
from lungline.results.records import OperatingPoint, Outcome, ReadFacts, ResultRecord, Times, UploadFacts
from lungline.retention.taking_back import take_back
from lungline.retention.tombstones import has_left, is_stored
from lungline.settings import Settings
from lungline.storage.objects import StoredObject
from lungline.storage.s3 import Storage
from lungline.task.terms import terms_to_keep

_log = logging.getLogger(__name__)

# Longer than a put that still succeeds.
_LIST_SECONDS = 60.0
_NEEDED = dicom.NEEDED | dicom_facts.NEEDED | patients.NEEDED

KeepUnsure = Callable[[ResultRecord, StoredObject], object]
"""Keeps the image of an unsure record for research, now or later; it never raises."""


def diagnose_upload(
    upload: Upload,
    diagnoser: Diagnoser,
    storage: Storage,
    settings: Settings,
    received: datetime | None = None,
    *,
    keep_unsure: KeepUnsure | None = None,
    listing: SharedListing | None = None,
    routing: Routing | None = None,
    event: str | None = None,
) -> ResultRecord:
    """Fetch, diagnose and save one upload; `received` is when its event arrived, now by default.

    `event` is where that lies in Kafka. Without `keep_unsure`, the image of an unsure record is copied to the research
    bucket before this returns. A `listing`, where given, lists the record among the latest during the diagnosis, with
    others if there are any. Where several models serve, `routing` says which of them judges; `diagnoser` then stands
    for uploads that fit no task. With another `purpose` of the settings than answers, the record is kept as a second
    opinion, and nothing else.
    Idempotent: another call for the same upload and model version, concurrent or later, returns the stored record.
    Raises EventMalformed when the upload is not in the uploads bucket, UploadErased when it was erased,
    StorageUnavailable, ModelNotReady and Busy when a retry may help, and ServedElsewhere where the routing has tasks of
    other predictors.
    """
    require_bucket([upload], settings.uploads_bucket)
    routing = routing or Routing((diagnoser,))
    # By its key alone: what is gone or too large has no header.
    first = routing.before_fetching(upload.key) or diagnoser
    case = _Case(first, storage, settings, received or datetime.now(UTC), listing, routing, event)

    def keep_now(record: ResultRecord, stored: StoredObject) -> None:
        from lungline.deidentification import research

        if research.keep(record, stored.data, storage, settings):
            research.stays(record, storage, settings)

    def keep_nothing(record: ResultRecord, stored: StoredObject) -> None:
        """The image of a second opinion is the answer's to keep."""

    keep = (keep_unsure or keep_now) if case.is_answer else keep_nothing
    with diagnoser.limits.work():
        return _diagnose(upload, case, keep)


def _diagnose(upload: Upload, case: "_Case", keep_unsure: KeepUnsure) -> ResultRecord:
    timings: dict[str, float] = {}
    limits = case.diagnoser.limits
    expected = min(upload.size or 0, limits.max_bytes)
    limits.take(expected)
    try:
        with timed(timings, "fetch"):
            stored = case.storage.get(upload.bucket, upload.key, upload.version_id, limits.max_bytes)
    except ObjectGone:
        case.require_not_erased(upload)
        return case.close(upload, "gone", message="The object was deleted before it could be read.")
    except ObjectTooLarge as exc:
        return case.close(upload, "refused", diagnosis=refused("too-large", str(exc), timings))
    limits.take(max(0, len(stored.data) - expected))  # events may state no size, or a wrong one
    if not upload.version_id and not upload.etag:
        upload = replace(upload, etag=stored.etag)  # as a listing names it, so that reconcile finds it
    if upload.version_id or upload.etag == stored.etag:
        return _keep(case.diagnose(upload, stored, timings), stored, keep_unsure)
    # Overwritten since the event. Diagnose the present object under its own identity, where its own event will find
    # the result: an X-ray must not be lost because a store writes ETags differently in events and in responses.
    present = replace(upload, etag=stored.etag, sequencer=None, size=stored.size, uploaded_at=stored.modified)
    _keep(case.diagnose(present, stored, timings), stored, keep_unsure)
    case.require_not_erased(upload)
    message = "The object was overwritten before it could be read."
    return case.close(upload, "superseded", message=message, superseded_by=present.identity)


def _keep(record: ResultRecord, stored: StoredObject, keep_unsure: KeepUnsure) -> ResultRecord:
    if record.label == "Unsure":
        keep_unsure(record, stored)
    return record


@dataclass(frozen=True, slots=True)
class _Case:
    """Builds and saves the record of one upload, whatever the outcome."""

    diagnoser: Diagnoser
    storage: Storage
    settings: Settings
    received: datetime
    listing: SharedListing | None
    routing: Routing
    event: str | None

    @property
    def is_answer(self) -> bool:
        """Whether the record is the answer to the upload, rather than a second opinion."""
        return self.settings.purpose == "answer"

    def require_not_erased(self, upload: Upload) -> None:
        """Raise UploadErased for an upload whose record would bring its key back.

        It may have: of a predictor that died once it had saved a record, the event comes again.
        """
        if kinds := has_left(upload, self.storage, self.settings):
            take_back(upload.identity, kinds, self.storage, self.settings)
            raise UploadErased(f"Upload {upload.identity} was erased.")

    def diagnose(self, upload: Upload, stored: StoredObject, timings: dict[str, float]) -> ResultRecord:
        header = find_header(stored.data, _NEEDED)  # once, for the task, rules, decoder and patient
        model = self.routing.of(upload.key, header)
        if model is None:
            return self.close(
                upload, "refused", diagnosis=refused(records.NO_TASK, NO_TASK), stored=stored, header=header
            )
        return replace(self, diagnoser=model).diagnose_by_model(upload, stored, header, timings)

    def diagnose_by_model(
        self, upload: Upload, stored: StoredObject, header: DicomFile | None, timings: dict[str, float]
    ) -> ResultRecord:
        listed = self._list(upload, stored.modified)
        diagnosis = self._set_aside(header) or self.diagnoser.diagnose(stored.data, header=header, drawn=False)
        diagnosis = replace(diagnosis, timings=timings | diagnosis.timings)
        outcome = "refused" if diagnosis.label == "Refused" else "judged"
        return self.close(upload, outcome, diagnosis=diagnosis, stored=stored, header=header, listed=listed)

    def _list(self, upload: Upload, modified: datetime) -> Callable[[], object]:
        """List an answer to come among the latest; returns the wait until it is, which raises what a put does."""
        if not self.is_answer:
            return lambda: None
        arguments = (upload.identity, self.diagnoser.record_version, modified)
        if self.listing is None:
            latest_list.list_latest(self.storage, self.settings.results_bucket, *arguments)
            return lambda: None
        return partial(self.listing.add(*arguments).result, _LIST_SECONDS)

    def _set_aside(self, header: DicomFile | None) -> Diagnosis | None:
        """The refusal of an image that the model is not meant for, or that is a result of ours; else None."""
        facts = header and facts_of(header)
        if facts is None:
            return None
        if facts.is_own:
            return refused(records.OWN_RESULT, "The image is a result of this system, and is not judged again.")
        wanted = self.diagnoser.package.card.task.images
        reason = reason_not_meant(facts, load_image_rules(self.settings.image_rules), wanted)
        return refused(records.NOT_MEANT, reason) if reason else None

    def close(
        self,
        upload: Upload,
        outcome: Outcome,
        *,
        diagnosis: Diagnosis | None = None,
        stored: StoredObject | None = None,
        header: DicomFile | None = None,
        message: str | None = None,
        superseded_by: str | None = None,
        listed: Callable[[], object] | None = None,
    ) -> ResultRecord:
        package, version = self.diagnoser.package, self.diagnoser.record_version
        thresholds = package.card.thresholds
        record = ResultRecord(
            id=f"{upload.identity}-{version}",
            task=package.card.task.name,
            outcome=outcome,
            label=diagnosis and diagnosis.label,
            probability=diagnosis and diagnosis.probability,
            thresholds=OperatingPoint(low=thresholds.low, high=thresholds.high, operating=thresholds.operating),
            reason=diagnosis and diagnosis.reason,
            message=diagnosis.message if diagnosis else message,
            superseded_by=superseded_by,
            warnings=diagnosis.warnings if diagnosis else (),
            notes=diagnosis.image.notes if diagnosis and diagnosis.image else (),
            model=model_facts(package),
            upload=_upload_facts(upload),
            read=stored and _read_facts(stored),
            image=diagnosis and diagnosis.image_facts,
            evidence=diagnosis and diagnosis.evidence,
            patient=header and self._keep_patient(upload, header),
            lungs=diagnosis and diagnosis.lung_facts,
            doubts=diagnosis.prediction.doubts if diagnosis and diagnosis.prediction else (),
            findings=diagnosis.finding_facts if diagnosis else (),
            terms=terms_to_keep(package.card.task),
            event=self.event,
            times=Times(
                uploaded=upload.uploaded_at or (stored and stored.modified),
                received=self.received,
                done=datetime.now(UTC),
            ),
            timings={stage: round(value, 3) for stage, value in diagnosis.timings.items()} if diagnosis else {},
            image_statistics=diagnosis and diagnosis.statistics,
        )
        if listed is not None:
            listed()
        return self._save_unless_erased(upload, record, listed=listed is not None)

    def _save_unless_erased(self, upload: Upload, record: ResultRecord, *, listed: bool) -> ResultRecord:
        """Save a record, and take it back where the upload was erased since its X-ray was read.

        Raises UploadErased, and Busy where the same image was sent again at that very moment: what its own event has
        saved may be gone too, so the upload must be judged once more.
        """
        saved = self._save(record, listed=listed)
        if not (kinds := has_left(upload, self.storage, self.settings)):
            return saved
        take_back(upload.identity, kinds, self.storage, self.settings)
        if is_stored(upload, self.storage):
            raise Busy(f"Upload {upload.identity} was erased and sent again while it was judged; try again.")
        raise UploadErased(f"Upload {upload.identity} was erased while it was judged.")

    def _save(self, record: ResultRecord, *, listed: bool) -> ResultRecord:
        bucket, purpose = self.settings.results_bucket, self.settings.purpose
        if purpose != "answer":
            return opinions.save(self.storage, bucket, record, purpose)
        return record_store.save(self.storage, bucket, record, listed=listed)

    def _keep_patient(self, upload: Upload, header: DicomFile) -> str | None:
        """Store whom a DICOM upload is of, before the record that points there; also of a refused one.

        A second opinion adds nothing to what the answer has stored.
        """
        if not self.is_answer:
            return None
        patient = patients.read(upload.identity, header)
        if patient is None:
            return None
        try:
            return patients.save(self.storage, self.settings.patients_bucket, patient)
        except Unavailable:
            raise
        except LunglineError as exc:  # no such bucket, no right to write: the X-ray must be predicted all the same
            _log.warning("Upload %s: its patient was not saved: %s", upload.identity, exc)
            return None


def _upload_facts(upload: Upload) -> UploadFacts:
    return UploadFacts(
        identity=upload.identity,
        bucket=upload.bucket,
        key=upload.key,
        version_id=upload.version_id,
        etag=upload.etag,
        sequencer=upload.sequencer,
    )


def _read_facts(stored: StoredObject) -> ReadFacts:
    return ReadFacts(etag=stored.etag, version_id=stored.version_id, size=stored.size, modified=stored.modified)
