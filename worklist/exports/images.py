"""X-rays and heatmaps for the browser, fetched from S3 by the service; browsers get no S3 links."""

import io
import threading
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lungline.errors import ImageRefused, ObjectGone
from lungline.imaging.decoding import decode
from lungline.imaging.heatmap import overlay
from lungline.imaging.image import Limits
from lungline.imaging.png import write_png
from lungline.memory import budget_of_process
from lungline.results import heatmaps
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage

THUMB_SIDE = 160
THUMBS = 2000
# Pixels above which a thumbnail is made from the heatmap, whose longest side has 512.
_LARGE = 16_000_000
_UNKNOWN_SIZE = 16 * 2**20
_HEATMAP_BYTES = 4 * 2**20
# The rest of a pod's 512 MiB: what the worklist needs without any image, and what a budget cannot count.
MEMORY_SHARE = 0.45
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# Chroma of the strongest heatmap colours; see lungline.imaging.preparation.
_FULL_CHROMA = 190.0


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """An image that a browser can show."""

    data: bytes
    media_type: str


class ImageRenderer:
    """Images of uploads; thread-safe. Caches thumbnails, because every page requests the newest."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._bucket = settings.results_bucket
        self._limits = Limits.from_settings(settings, budget_of_process(MEMORY_SHARE, runs_alone=False))
        self._thumbs: OrderedDict[str, RenderedImage] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def limits(self) -> Limits:
        """What images may be, and the memory that they share."""
        return self._limits

    def xray(self, record: ResultRecord) -> RenderedImage:
        """The X-ray as the model saw it: unchanged where browsers show the format faithfully, else decoded here.

        Raises ObjectGone, also when the object was overwritten, StorageUnavailable and ImageRefused.
        """
        with self._limits.work():
            data = self._read(record)
            if data.startswith(_JPEG):
                return RenderedImage(data, "image/jpeg")
            # Browsers truncate 16 bits to 8, and not all of them turn a PNG as its EXIF says.
            if data.startswith(_PNG) and data[24:25] == b"\x08" and b"eXIf" not in data:
                return RenderedImage(data, "image/png")
            pixels = decode(data, self._limits).pixels
            self._limits.take(2 * pixels.size)  # while it is compressed
            return RenderedImage(write_png(pixels), "image/png")

    def rendered(self, record: ResultRecord, longest: int, quality: int) -> RenderedImage:
        """The X-ray as a JPEG of at most `longest` pixels on its longest side; raises what `xray` does, and Busy."""
        with self._limits.work():
            pixels = decode(self._read(record), self._limits, at_least=longest).pixels
            self._limits.take(2 * pixels.size)
            image = Image.fromarray(pixels)
            image.thumbnail((longest, longest))
            return RenderedImage(_jpeg(image, quality), "image/jpeg")

    def original(self, record: ResultRecord) -> bytes:
        """The bytes that were uploaded."""
        upload = record.upload
        stored = self._storage.get(upload.bucket, upload.key, upload.version_id, self._limits.max_bytes)
        _require_same(record, stored.etag)
        return stored.data

    def pieces(self, record: ResultRecord) -> Generator[bytes]:
        """The bytes that were uploaded, piece by piece; holds one of them. Raises what `original` does."""
        upload = record.upload
        stored, pieces = self._storage.open(upload.bucket, upload.key, upload.version_id)
        _require_same(record, stored.etag)
        yield from pieces

    @contextmanager
    def reading(self, record: ResultRecord, copies: int = 1) -> Generator[bytes]:
        """The bytes that were uploaded, in memory that is given back when the context ends; raises Busy as well.

        The memory is that of `copies` of them.
        """
        with self._limits.work():
            data = self._read(record)
            self._limits.take((copies - 1) * len(data))
            yield data

    def _read(self, record: ResultRecord) -> bytes:
        """The bytes that were uploaded, in the memory of this thread's work."""
        expected = (record.read and record.read.size) or _UNKNOWN_SIZE
        self._limits.take(expected)
        data = self.original(record)
        self._limits.take(max(0, len(data) - expected))
        return data

    def _small(self, record: ResultRecord) -> Image.Image:
        """The X-ray for a thumbnail; of a large one the image below a stored heatmap, which costs no decoding."""
        facts = record.image
        if record.heatmap and facts and facts.width * facts.height > _LARGE:
            with suppress(ObjectGone):
                data = self._storage.get(self._bucket, record.heatmap, max_bytes=_HEATMAP_BYTES).data
                return Image.open(io.BytesIO(data), formats=["PNG"]).convert("L")
        with self._limits.work():
            return Image.fromarray(decode(self._read(record), self._limits, at_least=THUMB_SIDE).pixels)

    def thumb(self, record: ResultRecord) -> RenderedImage:
        """The X-ray, 160 pixels on its longest side."""
        identity = record.upload.identity
        with self._lock:
            if identity in self._thumbs:
                self._thumbs.move_to_end(identity)
                return self._thumbs[identity]
        image = self._small(record)
        image.thumbnail((THUMB_SIDE, THUMB_SIDE))
        shown = RenderedImage(_jpeg(image), "image/jpeg")
        with self._lock:
            self._thumbs[identity] = shown
            while len(self._thumbs) > THUMBS:
                self._thumbs.popitem(last=False)
        return shown

    def heat(self, record: ResultRecord) -> RenderedImage:
        """The heatmap without the X-ray below it, so that windowing does not change its colours.

        Raises ObjectGone when there is none.
        """
        if record.evidence and record.image:
            return RenderedImage(overlay(record.evidence, record.image.width, record.image.height), "image/png")
        if record.heatmap is None:
            raise ObjectGone("There is no heatmap for this upload.")
        return RenderedImage(lift(self._storage.get(self._bucket, record.heatmap).data), "image/png")

    def overlaid(self, record: ResultRecord, original: bytes) -> bytes:
        """The heatmap over the X-ray, as a PNG; `original` are the bytes that were uploaded.

        To be called in the memory of `reading`. Raises ObjectGone when there is none, StorageUnavailable,
        ImageRefused and Busy.
        """
        return heatmaps.overlaid(record, original, self._storage, self._bucket, self._limits)


def lift(overlaid: bytes) -> bytes:
    """Separate the heatmap's colours from the grey image below, as a PNG with transparency.

    Grey below a colour changes its brightness but not its hue, so hue and opacity follow from the mixture. Raises
    ImageRefused when the data is not a PNG.
    """
    try:
        mixed = np.asarray(Image.open(io.BytesIO(overlaid), formats=["PNG"]).convert("RGB"), np.float32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise ImageRefused("not-an-image", "The stored heatmap is not a PNG image.") from exc
    lowest = mixed.min(axis=2, keepdims=True)
    chroma = mixed.max(axis=2, keepdims=True) - lowest
    colour = (mixed - lowest) / np.maximum(chroma, 1.0) * _FULL_CHROMA
    opacity = np.clip(chroma / _FULL_CHROMA, 0.0, 1.0) * 255.0
    opacity[chroma < 4] = 0  # rounding of grey
    out = io.BytesIO()
    Image.fromarray(np.concatenate([colour, opacity], axis=2).astype(np.uint8), "RGBA").save(
        out, "PNG", compress_level=1
    )
    return out.getvalue()


def _require_same(record: ResultRecord, etag: str) -> None:
    expected = record.read.etag if record.read else record.upload.etag
    if expected and not record.upload.version_id and etag != expected:
        raise ObjectGone("The image was overwritten after the prediction.")


def _jpeg(image: Image.Image, quality: int = 80) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
