"""The one online path, from an uploaded image to a saved result: fetch, decode, predict, explain, save.

The predictor, the laptop and a notebook call the same two things: `Diagnoser.diagnose` for the bytes of an image,
`judge_upload` for an object in the store.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from lungline import results
from lungline.errors import ImageRefused, ObjectGone, ObjectTooLarge
from lungline.events import Upload, require_bucket
from lungline.images import Limits, Picture, heatmap_png
from lungline.monitoring.observation import Observation, observe
from lungline.package import Package, Prediction
from lungline.results import (
    ModelFacts,
    Operating,
    Outcome,
    PictureFacts,
    ReadFacts,
    ResultLabel,
    ResultRecord,
    Times,
    UploadFacts,
)
from lungline.settings import Settings
from lungline.storage import Storage, StoredObject

PHANTOM_WARNING = "the model was trained on drawn phantoms, not on X-rays"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the model found in an image, or why it was refused.

    `reason` is a code for counters, `message` its sentence for a person. `timings` are milliseconds by stage.
    """

    label: ResultLabel
    probability: float | None = None
    reason: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()
    heatmap: bytes | None = field(default=None, repr=False)
    picture: PictureFacts | None = None
    timings: dict[str, float] = field(default_factory=dict)
    observed: Observation | None = None


class Diagnoser:
    """A model package, ready to judge images; immutable, and safe to call from any number of threads."""

    def __init__(self, package: Package, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.package = package
        self.limits = limits
        self.version = results.version_of(package.card, package.sha256)

    def diagnose(self, data: bytes, *, heatmap: bool = True, observed: bool = True) -> Diagnosis:
        """Judge the bytes of an image file; an image that cannot be judged gives the label Refused, not an error.

        `observed` is for results that are saved: what monitoring needs to know costs a tenth of judging.
        """
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "decode"):
                picture = self.package.card.preparation.decode(data, self.limits)
        except ImageRefused as refusal:
            return refused(refusal.reason, str(refusal), timings)
        if picture.is_blank:
            return refused("blank", "All pixels of the image are the same: there is nothing to judge.", timings)
        return self._judge(picture, len(data) if observed else None, timings, heatmap=heatmap)

    def _judge(self, picture: Picture, size: int | None, timings: dict[str, float], *, heatmap: bool) -> Diagnosis:
        card = self.package.card
        with _timed(timings, "prepare"):
            prepared = card.preparation.apply(picture)
        with _timed(timings, "predict"):
            prediction = self.package.predict(prepared[np.newaxis])[0]
        observed = None
        if size is not None:
            with _timed(timings, "observe"):
                observed = observe(picture, size, prediction.embedding)
        png = None
        if heatmap:
            with _timed(timings, "explain"):
                png = heatmap_png(picture, prediction.cam, card.preparation)
        return Diagnosis(
            label=prediction.label,
            probability=prediction.probability,
            warnings=self._warnings(picture, prediction),
            heatmap=png,
            picture=PictureFacts(format=picture.format, width=picture.width, height=picture.height),
            timings=timings,
            observed=observed,
        )

    def _warnings(self, picture: Picture, prediction: Prediction) -> tuple[str, ...]:
        synthetic = (PHANTOM_WARNING,) if self.package.card.synthetic else ()
        return (*picture.warnings, *prediction.warnings, *synthetic)


def refused(reason: str, message: str, timings: dict[str, float] | None = None) -> Diagnosis:
    """The diagnosis of an image that cannot be judged."""
    return Diagnosis("Refused", reason=reason, message=message, timings=timings or {})


def judge_upload(
    upload: Upload, diagnoser: Diagnoser, storage: Storage, settings: Settings, received: datetime | None = None
) -> ResultRecord:
    """Fetch, judge and save one upload; `received` is when its event arrived, now by default.

    Judging an upload again, at the same time or later, gives the stored record. Raises EventMalformed when the upload
    is not in the uploads bucket, StorageUnavailable when it should be tried again later.
    """
    require_bucket([upload], settings.uploads_bucket)
    case = _Case(diagnoser, storage, settings.results_bucket, received or datetime.now(UTC))
    timings: dict[str, float] = {}
    try:
        with _timed(timings, "fetch"):
            found = storage.get(upload.bucket, upload.key, upload.version_id, diagnoser.limits.max_bytes)
    except ObjectGone:
        return case.close(upload, "gone", message="The object was deleted before it could be read.")
    except ObjectTooLarge as exc:
        return case.close(upload, "refused", diagnosis=refused("too-large", str(exc), timings))
    if not upload.version_id and not upload.etag:
        upload = replace(upload, etag=found.etag)  # as a listing names it, so that reconciling finds its result
    if upload.version_id or upload.etag == found.etag:
        return _kept(case.judge(upload, found, timings), found, storage, settings)
    # Overwritten since. What is there now is judged under its own identity, where its own event finds it done: an X-ray
    # must not go unjudged because a store writes ETags into events otherwise than it answers them.
    present = replace(upload, etag=found.etag, sequencer=None, size=found.size, uploaded_at=found.modified)
    _kept(case.judge(present, found, timings), found, storage, settings)
    message = "The object was overwritten before it could be read."
    return case.close(upload, "superseded", message=message, superseded_by=present.identity)


def _kept(record: ResultRecord, found: StoredObject, storage: Storage, settings: Settings) -> ResultRecord:
    """The record, which is saved, after its image went to the research bucket if it is unsure."""
    if record.label == "Unsure":
        from lungline.deidentification import research

        research.keep(record, found.data, storage, settings)
    return record


@dataclass(frozen=True, slots=True)
class _Case:
    """How a record is made, whatever its outcome."""

    diagnoser: Diagnoser
    storage: Storage
    bucket: str
    received: datetime

    def judge(self, upload: Upload, found: StoredObject, timings: dict[str, float]) -> ResultRecord:
        diagnosis = self.diagnoser.diagnose(found.data)
        diagnosis = replace(diagnosis, timings=timings | diagnosis.timings)
        if diagnosis.label == "Refused":
            return self.close(upload, "refused", diagnosis=diagnosis, found=found)
        heatmap = results.heatmap_key(upload.identity, self.diagnoser.version, found.modified)
        with _timed(diagnosis.timings, "save_heatmap"):
            self.storage.put(self.bucket, heatmap, diagnosis.heatmap or b"", "image/png")
        return self.close(upload, "judged", diagnosis=diagnosis, found=found, heatmap=heatmap)

    def close(
        self,
        upload: Upload,
        outcome: Outcome,
        *,
        diagnosis: Diagnosis | None = None,
        found: StoredObject | None = None,
        message: str | None = None,
        superseded_by: str | None = None,
        heatmap: str | None = None,
    ) -> ResultRecord:
        package, version = self.diagnoser.package, self.diagnoser.version
        thresholds = package.card.thresholds
        record = ResultRecord(
            id=f"{upload.identity}-{version}",
            outcome=outcome,
            label=diagnosis and diagnosis.label,
            probability=diagnosis and diagnosis.probability,
            thresholds=Operating(low=thresholds.low, high=thresholds.high, operating=thresholds.operating),
            reason=diagnosis and diagnosis.reason,
            message=diagnosis.message if diagnosis else message,
            superseded_by=superseded_by,
            warnings=diagnosis.warnings if diagnosis else (),
            model=model_facts(package),
            upload=_upload_facts(upload),
            read=found and _read_facts(found),
            picture=diagnosis and diagnosis.picture,
            heatmap=heatmap,
            times=Times(
                uploaded=upload.uploaded_at or (found and found.modified),
                received=self.received,
                done=datetime.now(UTC),
            ),
            timings={stage: round(value, 3) for stage, value in diagnosis.timings.items()} if diagnosis else {},
            observed=diagnosis and diagnosis.observed,
        )
        return results.save(self.storage, self.bucket, record)


def model_facts(package: Package) -> ModelFacts:
    """What records and answers say about the model."""
    card = package.card
    return ModelFacts(
        name=card.name,
        version=results.version_of(card, package.sha256),
        run_id=card.mlflow_run_id,
        sha256=package.sha256,
        synthetic=card.synthetic,
    )


def _upload_facts(upload: Upload) -> UploadFacts:
    return UploadFacts(
        identity=upload.identity,
        bucket=upload.bucket,
        key=upload.key,
        version_id=upload.version_id,
        etag=upload.etag,
        sequencer=upload.sequencer,
    )


def _read_facts(found: StoredObject) -> ReadFacts:
    return ReadFacts(etag=found.etag, version_id=found.version_id, size=found.size, modified=found.modified)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Generator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = (time.perf_counter() - start) * 1000
