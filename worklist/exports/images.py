"""X-rays and heatmaps for the browser: fetched from S3 by the service, never by a link of their own."""

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lungline.errors import ImageRefused, ObjectGone
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.imaging.png import write_png
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage

THUMB_SIDE = 160
THUMBS = 2000
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# Chroma of the strongest colours of a heatmap; see lungline.imaging.preparation.
_FULL_CHROMA = 190.0


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """An image that a browser can show."""

    data: bytes
    media_type: str


class ImageRenderer:
    """Images of uploads; may be shared by threads. Keeps the last small ones, for the newest are asked for by all."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._bucket = settings.results_bucket
        self._limits = Limits(
            max_bytes=settings.image_max_bytes,
            max_pixels=settings.image_max_pixels,
            min_side=settings.image_min_side,
        )
        self._thumbs: OrderedDict[str, RenderedImage] = OrderedDict()
        self._lock = threading.Lock()

    def xray(self, record: ResultRecord) -> RenderedImage:
        """The X-ray as it was judged: as it is where browsers show it faithfully, decoded by us where they do not.

        Raises ObjectGone, also when something else lies under its key by now, StorageUnavailable and ImageRefused.
        """
        data = self.original(record)
        if data.startswith(_JPEG):
            return RenderedImage(data, "image/jpeg")
        if data.startswith(_PNG) and data[24:25] == b"\x08":  # browsers cut 16 bits to 8 without looking
            return RenderedImage(data, "image/png")
        return RenderedImage(write_png(decode(data, self._limits).pixels), "image/png")

    def original(self, record: ResultRecord) -> bytes:
        """The bytes that were uploaded."""
        upload = record.upload
        found = self._storage.get(upload.bucket, upload.key, upload.version_id, self._limits.max_bytes)
        judged = record.read.etag if record.read else upload.etag
        if judged and not upload.version_id and found.etag != judged:
            raise ObjectGone("The object was overwritten since it was judged.")
        return found.data

    def thumb(self, record: ResultRecord) -> RenderedImage:
        """The X-ray, 160 pixels on its longest side."""
        identity = record.upload.identity
        with self._lock:
            if identity in self._thumbs:
                self._thumbs.move_to_end(identity)
                return self._thumbs[identity]
        picture = decode(self.original(record), self._limits, at_least=THUMB_SIDE)
        image = Image.fromarray(picture.pixels)
        image.thumbnail((THUMB_SIDE, THUMB_SIDE))
        shown = RenderedImage(_jpeg(image), "image/jpeg")
        with self._lock:
            self._thumbs[identity] = shown
            while len(self._thumbs) > THUMBS:
                self._thumbs.popitem(last=False)
        return shown

    def heat(self, record: ResultRecord) -> RenderedImage:
        """The heatmap without the X-ray under it, so that windowing the one leaves the other alone.

        Raises ObjectGone when there is none.
        """
        if record.heatmap is None:
            raise ObjectGone("There is no heatmap for this upload.")
        return RenderedImage(lift(self._storage.get(self._bucket, record.heatmap).data), "image/png")


def lift(overlaid: bytes) -> bytes:
    """The colour that was laid over a grey picture, as a PNG with transparency.

    Grey under a colour changes its brightness but not its hue, so hue and strength can be told from the sum. Raises
    ImageRefused when it is not an image.
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


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
