"""Upload a batch: each image once, at a set rate, under a key without a patient's data."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.part10 import read_instance
from laptop.batches.entry import Entry
from laptop.batches.journal import Journal
from lungline.errors import ImageRefused, LunglineError, Unavailable
from lungline.imaging.decoding import decode
from lungline.imaging.dicom_header import is_dicom
from lungline.imaging.image import Limits
from lungline.storage.s3 import Storage
from lungline.wording import count

FOLDER = "import/"
_ATTEMPTS, _PAUSE_SECONDS = 4, 1.0
# Enough to see whether pixels can be decoded.
_SIDE = 64

Outcome = Literal["uploaded", "would be uploaded", "already there", "not an image", "failed"]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one file; `reason` is a sentence where it was not uploaded."""

    name: str = field(repr=False)
    outcome: Outcome
    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where uploads are put."""

    storage: Storage
    bucket: str
    limits: Limits

    def put(self, image: "Image") -> bool:
        """Store an image; False when it is there already. Raises LunglineError, after several attempts."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self.storage.put_once(self.bucket, image.key, image.data, image.content_type)
            except Unavailable:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError


@dataclass(frozen=True, slots=True)
class Image:
    """An image to upload."""

    data: bytes = field(repr=False)
    key: str
    content_type: str


class Pace:
    """Lets pass no more than a number of uploads a second."""

    def __init__(self, rate: float) -> None:
        self._seconds = 1 / rate
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait until the next upload may begin; what was late is not made up for."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self._seconds


@dataclass
class Import:
    """One call of the import of a batch."""

    target: Target
    journal: Journal
    pace: Pace
    dry_run: bool = False
    again: bool = False
    """Whether to look anew at what the journal has."""

    def run(self, entries: Sequence[Entry], on_row: Callable[[Row, int], None]) -> list[Row]:
        """Upload what is not there yet; `on_row` gets each row and how many are done.

        Raises LunglineError when the store refuses or stays away; then the same call goes on from there.
        """
        rows: list[Row] = []
        for entry in entries:
            try:
                row = self._row(entry)
            except LunglineError as exc:
                done = f"{len(rows)} of {count(len(entries), 'file')} are done"
                raise LunglineError(f"{exc} {done}; the same command goes on from there.") from exc
            rows.append(row)
            on_row(row, len(rows))
        return rows

    def _row(self, entry: Entry) -> Row:
        if entry.fault or entry.read is None:
            return Row(entry.name, "failed", reason=entry.fault)
        if not self.again and (key := self.journal.key_of(entry.mark)):
            return Row(entry.name, "already there", key)
        try:
            image = image_of(entry.read(), self.target.limits)
        except ImageRefused as exc:
            return Row(entry.name, "not an image", reason=str(exc))
        except Unavailable:
            raise  # of a store that is the source
        except LunglineError as exc:
            return Row(entry.name, "failed", reason=str(exc))
        return self._uploaded(entry, image)

    def _uploaded(self, entry: Entry, image: Image) -> Row:
        if self.dry_run:
            return Row(entry.name, "would be uploaded", image.key)
        self.pace.wait()
        is_new = self.target.put(image)
        self.journal.add(entry.mark, image.key)
        return Row(entry.name, "uploaded" if is_new else "already there", image.key)


def image_of(data: bytes, limits: Limits) -> Image:
    """The image of a file, with the key that the gateway gives a DICOM object, or one made of its content.

    Raises ImageRefused for what the predictor would refuse, and for results of this system.
    """
    if is_dicom(data):
        instance = read_instance(data)
        if instance.is_own:
            raise ImageRefused("own-result", "It is a result of this system.")
        decode(data, limits, at_least=_SIDE)
        if instance.study and instance.series and instance.sop_instance:
            return Image(data, instance.key, "application/dicom")
        return Image(data, _key(data, "dcm"), "application/dicom")
    kind = decode(data, limits, at_least=_SIDE).format
    return Image(data, _key(data, kind), f"image/{kind}")


def _key(data: bytes, kind: str) -> str:
    """Not the file's name, which may be a patient's."""
    return f"{FOLDER}{hashlib.sha256(data).hexdigest()[:40]}.{kind}"
