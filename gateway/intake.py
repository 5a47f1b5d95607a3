"""What becomes of one DICOM object, however it was sent: an upload, a repetition, or a refusal with its reason."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Literal, get_args

from gateway import metrics
from gateway.ledger import Ledger
from gateway.part10 import Instance, read_instance
from lungline.errors import ImageRefused, LunglineError, Unavailable
from lungline.events.uploads import Upload
from lungline.imaging.dicom import CAPTURES, RADIOGRAPHS
from lungline.memory import MemoryBudget
from lungline.settings import Settings
from lungline.storage.s3 import Storage

REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{last}" for last in (11, 22, 33, 34))
"""Structured reports: ours are recognised when a PACS sends them back, those of others are refused."""

Outcome = Literal[
    "stored",
    "repeated",  # the same content was stored before
    "changed",  # stored beside another content under the same UID
    "own",  # a result of ours that came back
    "class-not-supported",
    "not-understood",
    "mismatch",  # the data set is not what its sender announced
    "out-of-resources",
    "failed",
]

log = logging.getLogger("lungline.gateway")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an object; `reason` is one sentence that may be sent back, without anything of the object."""

    outcome: Outcome
    reason: str = ""
    instance: Instance | None = None


class Intake:
    """Puts DICOM objects into the uploads bucket; threads may share it."""

    def __init__(self, storage: Storage, settings: Settings, ledger: Ledger, budget: MemoryBudget) -> None:
        self._storage = storage
        self._bucket = settings.uploads_bucket
        self.max_bytes = settings.image_max_bytes
        self._ledger = ledger
        metrics.begin_at_zero(get_args(Outcome))
        self.budget = budget
        """Whoever reads an object takes its size from this first."""

    def take(
        self, data: bytes, way: metrics.Way, announced: tuple[str, str] | None = None, study: str | None = None
    ) -> Receipt:
        """Store a DICOM file; never raises.

        `announced` are the SOP class and instance that its sender named, `study` the only study that it stores to.
        Returns once the object store has the object, or has refused it.
        """
        try:
            receipt = self._take(data, announced, study)
        except Exception:  # whichever way the object came, it is counted and answered as one that failed
            log.exception("An object could not be taken.")
            receipt = Receipt("failed", "The object could not be stored; send it again.")
        metrics.count(way, receipt.outcome, len(data) if receipt.outcome in {"stored", "changed"} else 0)
        if receipt.outcome not in {"stored", "repeated", "own"}:
            log.warning("%s: %s", receipt.outcome, receipt.reason, extra={"way": way})
        return receipt

    def _take(self, data: bytes, announced: tuple[str, str] | None, study: str | None) -> Receipt:
        if len(data) > self.max_bytes:
            return too_large(self.max_bytes)
        try:
            instance = read_instance(data)
        except ImageRefused as exc:
            return Receipt("not-understood", str(exc))
        return _refusal(instance, announced, study) or self._keep(data, instance)

    def _keep(self, data: bytes, instance: Instance) -> Receipt:
        if instance.is_own:
            return Receipt("own", "A result of this system was sent back to it.", instance)
        try:
            return self._store(data, instance)
        except Unavailable as exc:
            return Receipt("out-of-resources", str(exc), instance)
        except LunglineError as exc:
            return Receipt("failed", str(exc), instance)

    def _store(self, data: bytes, instance: Instance) -> Receipt:
        if not self._storage.put_once(self._bucket, instance.key, data, "application/dicom"):
            self._ledger.add(instance)
            return Receipt("repeated", instance=instance)
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        log.info("upload", extra={"identity": Upload(self._bucket, instance.key, None, etag).identity})
        if self._ledger.add(instance):
            return Receipt("changed", "Another content has the same SOP instance UID: both are kept.", instance)
        return Receipt("stored", instance=instance)


def too_large(limit: int) -> Receipt:
    """The receipt of an object of more bytes than are read."""
    return Receipt("out-of-resources", f"The object is larger than the limit of {limit:,} bytes.")


def _refusal(instance: Instance, announced: tuple[str, str] | None, study: str | None) -> Receipt | None:
    missing = [name for name in ("sop_class", "sop_instance", "study", "series") if not getattr(instance, name)]
    if missing:
        return Receipt("not-understood", f"The object has no {', '.join(missing).replace('_', ' ')} UID.", instance)
    if announced and announced != (instance.sop_class, instance.sop_instance):
        return Receipt("mismatch", "The object has another SOP class or instance than its sender announced.", instance)
    if study not in (None, instance.study):
        return Receipt("mismatch", "The object is of another study than the address.", instance)
    is_image = instance.sop_class in RADIOGRAPHS | CAPTURES
    if not is_image and not (instance.is_own and instance.sop_class in REPORTS):
        return Receipt("class-not-supported", "The object is neither a radiograph nor a secondary capture.", instance)
    if is_image and not instance.has_pixels:
        return Receipt("not-understood", "The object has no pixels.", instance)
    return None
