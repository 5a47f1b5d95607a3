"""The research bucket: unsure images, de-identified, each with the model's result.

    unsure/ab/abcdef....dcm     the image, or .png; its name is a keyed hash of the upload's identity
    unsure/ab/abcdef....json    the facts about it; stored last

A failure here does not affect the result: it is logged, and a marker in the results bucket (`owed/abcdef...-3`, for
record 3 of upload abcdef...) lets `catch_up` try again without reading all results.
"""

import contextlib
import json
import logging
import traceback
from dataclasses import dataclass
from typing import Literal

from lungline.deidentification.deidentify import Deidentified, deidentify
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import ImageRefused, LunglineError, ObjectGone
from lungline.imaging.image import Limits
from lungline.results import returned
from lungline.results.record_store import load
from lungline.results.records import OWED, ResultRecord, record_key
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "unsure/"

Outcome = Literal["kept", "present", "failed", "lost"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatchUp:
    """The number of images that a catch-up stored, found stored already, and could not store."""

    kept: int
    present: int
    failed: int


def keep(
    record: ResultRecord,
    data: bytes,
    storage: Storage,
    settings: Settings,
    limits: Limits | None = None,
    *,
    absent: bool = False,
) -> bool:
    """Store the image of an unsure record for research unless it is stored already; failures are logged, not raised.

    `absent` says that it is known not to be stored. Returns whether the image is stored now.
    """
    if record.label != "Unsure":
        return False
    try:
        if absent or not _is_kept(record, storage, settings):
            _keep(record, data, storage, settings, limits or Limits.from_settings(settings))
    except Exception as exc:  # noqa: BLE001 - the result is saved, and no failure here may undo it
        # Messages of libraries may quote the image; the type and place of the error cannot.
        last = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{type(exc).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}"
        why = str(exc) if isinstance(exc, LunglineError) else place
        _log.warning("An unsure image was not kept for research: %s (upload %s)", why, record.upload.identity)
        with contextlib.suppress(LunglineError):  # when the store is down, the marker is lost with the image
            owe(record, storage, settings)
        return False
    return True


def owe(record: ResultRecord, storage: Storage, settings: Settings) -> None:
    """Note that the image of an unsure record has to be kept; raises what `Storage.put` raises."""
    storage.put(settings.results_bucket, OWED + record.id, b"")


def settle(
    record: ResultRecord,
    storage: Storage,
    settings: Settings,
    limits: Limits | None = None,
    data: bytes | None = None,
) -> Outcome:
    """Keep the image of a record that was noted, and remove the note unless that failed.

    `data` is the image that was diagnosed, where it is still at hand.
    """
    outcome = _catch_up(record, storage, settings, limits, data)
    if outcome == "kept" and not stays(record, storage, settings):
        outcome = "lost"
    if outcome != "failed":
        storage.delete(settings.results_bucket, OWED + record.id)
    return outcome


def stays(record: ResultRecord, storage: Storage, settings: Settings) -> bool:
    """Whether a copy that was just stored is to stay; it is deleted where the upload was erased meanwhile.

    An erasure deletes copies before records and then looks again, so as long as the record is there it sees the copy.
    Raises what `Storage.exists` raises.
    """
    if storage.exists(settings.results_bucket, record.key):
        return True
    identity, bucket = record.upload.identity, settings.research_bucket
    name = research_name(identity, Pseudonyms.from_settings(settings))
    copies = ((bucket, info.key) for info in storage.list(bucket, f"{name}."))
    returned.delete_or_note(storage, settings.results_bucket, identity, copies)
    return False


def catch_up(storage: Storage, settings: Settings) -> CatchUp:
    """Store the images that could not be stored when they were diagnosed; costs one listing when there are none."""
    outcomes: list[str] = []
    for info in storage.list(settings.results_bucket, OWED):
        identity, _, version = info.key.removeprefix(OWED).partition("-")
        try:
            record = load(storage, settings.results_bucket, record_key(identity, version))
        except ObjectGone:
            outcome = "lost"
            storage.delete(settings.results_bucket, info.key)
        else:
            outcome = settle(record, storage, settings)
        outcomes.append(outcome)
    return CatchUp(outcomes.count("kept"), outcomes.count("present"), outcomes.count("failed") + outcomes.count("lost"))


def _catch_up(
    record: ResultRecord, storage: Storage, settings: Settings, limits: Limits | None, data: bytes | None
) -> Outcome:
    """The outcome of another attempt; `lost` when the diagnosed image is gone."""
    pseudonyms = Pseudonyms.from_settings(settings)
    if storage.exists(settings.research_bucket, research_name(record.upload.identity, pseudonyms) + ".json"):
        return "present"
    if data is not None:
        return "kept" if keep(record, data, storage, settings, limits, absent=True) else "failed"
    upload = record.upload
    try:
        stored = storage.get(upload.bucket, upload.key, upload.version_id, settings.image_max_bytes)
    except ObjectGone:
        return "lost"
    except LunglineError:
        return "failed"
    if record.read is not None and record.read.etag != stored.etag:
        return "lost"
    return "kept" if keep(record, stored.data, storage, settings, limits, absent=True) else "failed"


def _is_kept(record: ResultRecord, storage: Storage, settings: Settings) -> bool:
    name = research_name(record.upload.identity, Pseudonyms.from_settings(settings))
    try:
        return storage.exists(settings.research_bucket, name + ".json")
    except LunglineError:
        storage.ensure_buckets(settings.research_bucket)
        return False


def _keep(record: ResultRecord, data: bytes, storage: Storage, settings: Settings, limits: Limits) -> None:
    pseudonyms = Pseudonyms.from_settings(settings)
    name, bucket = research_name(record.upload.identity, pseudonyms), settings.research_bucket
    try:
        image = deidentify(data, pseudonyms, limits)
    except ImageRefused as exc:
        raise LunglineError(f"the image is refused: {exc.reason}") from exc
    facts = json.dumps(_facts(record, image, pseudonyms), indent=1).encode()
    try:
        storage.put(bucket, name + image.suffix, image.data, image.content_type)
    except ObjectGone:
        raise
    except LunglineError:
        storage.ensure_buckets(bucket)  # the first unsure image of a new store
        storage.put(bucket, name + image.suffix, image.data, image.content_type)
    storage.put_if_absent(bucket, name + ".json", facts, "application/json")


def research_name(identity: str, pseudonyms: Pseudonyms) -> str:
    """The name of an upload's copy in the research bucket, without its ending."""
    pseudonym = pseudonyms.of("upload", identity)
    return f"{PREFIX}{pseudonym[:2]}/{pseudonym}"


def _facts(record: ResultRecord, image: Deidentified, pseudonyms: Pseudonyms) -> dict[str, object]:
    """The facts for research: no times, no identity, and no text from the image file."""
    facts, model = record.image, record.model
    return {
        "image": pseudonyms.of("upload", record.upload.identity) + image.suffix,
        "key": pseudonyms.of("key", f"{record.upload.bucket}/{record.upload.key}"),
        "patient": image.patient,
        "label": record.label,
        "probability": record.probability,
        "thresholds": record.thresholds.model_dump(),
        "model": {"name": model.name, "version": model.version, "synthetic": model.synthetic},
        "decoded": facts and facts.model_dump(),
        "painted_over": round(image.painted_over, 4),
    }
