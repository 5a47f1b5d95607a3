"""The research bucket: unsure images, de-identified, with what the model said about them.

    unsure/ab/abcdef....dcm     the image, or .png; its name is a keyed hash of the upload's identity
    unsure/ab/abcdef....json    what is known about it; stored last

Keeping an image is no part of judging it: whatever goes wrong here is logged, the result stands, and a mark in the
results bucket (`owed/abcdef...-3`, for record 3 of upload abcdef...) lets `catch_up_owed` try again without reading
all results.
"""

import contextlib
import json
import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lungline.deidentification.deidentify import Deidentified, deidentify
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import ImageRefused, LunglineError, ObjectGone
from lungline.imaging.image import Limits
from lungline.results.records import OWED, ResultRecord, load, record_key
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "unsure/"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caught:
    """What a catching up came to, in images."""

    kept: int
    known: int
    failed: int


def keep(record: ResultRecord, data: bytes, storage: Storage, settings: Settings) -> bool:
    """Store the image of an unsure record for research, if it is not there; never raises for what goes wrong.

    True when the image is there now.
    """
    if record.label != "Unsure":
        return False
    try:
        _keep(record, data, storage, settings)
    except Exception as exc:  # noqa: BLE001 - the result is saved, and what failed here must not undo it
        # Messages of others may quote the image; their kind and place cannot.
        last = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{type(exc).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno}"
        why = str(exc) if isinstance(exc, LunglineError) else place
        _log.warning("An unsure image was not kept for research: %s (upload %s)", why, record.upload.identity)
        with contextlib.suppress(LunglineError):  # a store that is down: the mark is lost with the image
            storage.put(settings.results_bucket, OWED + record.id, b"")
        return False
    return True


def catch_up(records: Iterable[ResultRecord], storage: Storage, settings: Settings) -> Caught:
    """Keep the images of unsure records that could not be kept when they were judged."""
    ends = [_catch_up(record, storage, settings) for record in records if record.label == "Unsure"]
    return Caught(ends.count("kept"), ends.count("known"), ends.count("failed") + ends.count("lost"))


def catch_up_owed(storage: Storage, settings: Settings) -> Caught:
    """The same for the records that are marked; one listing where none is."""
    ends: list[str] = []
    for info in storage.list(settings.results_bucket, OWED):
        identity, _, version = info.key.removeprefix(OWED).partition("-")
        try:
            record = load(storage, settings.results_bucket, record_key(identity, version))
        except ObjectGone:
            end = "lost"
        else:
            end = _catch_up(record, storage, settings)
        ends.append(end)
        if end != "failed":
            storage.delete(settings.results_bucket, info.key)
    return Caught(ends.count("kept"), ends.count("known"), ends.count("failed") + ends.count("lost"))


def _catch_up(record: ResultRecord, storage: Storage, settings: Settings) -> Literal["kept", "known", "failed", "lost"]:
    """How one more attempt ended; `lost` when the image that was judged is not there any more."""
    pseudonyms = Pseudonyms.from_settings(settings)
    if storage.exists(settings.research_bucket, _name(record, pseudonyms) + ".json"):
        return "known"
    upload = record.upload
    try:
        found = storage.get(upload.bucket, upload.key, upload.version_id, settings.image_max_bytes)
    except ObjectGone:
        return "lost"
    except LunglineError:
        return "failed"
    if record.read is not None and record.read.etag != found.etag:
        return "lost"
    return "kept" if keep(record, found.data, storage, settings) else "failed"


def _keep(record: ResultRecord, data: bytes, storage: Storage, settings: Settings) -> None:
    pseudonyms = Pseudonyms.from_settings(settings)
    name, bucket = _name(record, pseudonyms), settings.research_bucket
    try:
        present = storage.exists(bucket, name + ".json")
    except LunglineError:
        storage.ensure_buckets(bucket)
        present = False
    if present:
        return
    try:
        image = deidentify(data, pseudonyms, Limits.from_settings(settings))
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


def _name(record: ResultRecord, pseudonyms: Pseudonyms) -> str:
    pseudonym = pseudonyms.of("upload", record.upload.identity)
    return f"{PREFIX}{pseudonym[:2]}/{pseudonym}"


def _facts(record: ResultRecord, image: Deidentified, pseudonyms: Pseudonyms) -> dict[str, object]:
    """What research may know; no times, no identity, and nothing that the image file said in words."""
    picture, model = record.image, record.model
    return {
        "image": pseudonyms.of("upload", record.upload.identity) + image.suffix,
        "key": pseudonyms.of("key", f"{record.upload.bucket}/{record.upload.key}"),
        "patient": image.patient,
        "label": record.label,
        "probability": record.probability,
        "thresholds": record.thresholds.model_dump(),
        "model": {"name": model.name, "version": model.version, "synthetic": model.synthetic},
        "picture": picture and picture.model_dump(),
        "painted_over": round(image.hidden, 4),
    }
