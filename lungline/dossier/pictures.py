"""The pictures of a dossier: the X-ray, and the heatmap that was shown with its result."""

import hashlib
import io
from dataclasses import dataclass, field

from PIL import Image

from lungline.dossier.parts import PictureFacts
from lungline.dossier.sources import Sources
from lungline.imaging.decoding import decode
from lungline.imaging.heatmap import HEATMAP_SIDE, overlay
from lungline.results.heatmaps import overlaid
from lungline.results.records import ResultRecord

XRAY, HEATMAP, EVIDENCE = "X-ray", "Heatmap", "Heatmap without the X-ray"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is embedded in the page, at most 512 pixels on its longest side."""

    title: str
    media_type: str
    data: bytes = field(repr=False)

    @property
    def facts(self) -> PictureFacts:
        """What the signed document holds of it."""
        digest = hashlib.sha256(self.data).hexdigest()
        return PictureFacts(title=self.title, media_type=self.media_type, sha256=digest)


def pictures_of(record: ResultRecord, original: bytes, sources: Sources) -> tuple[Picture, ...]:
    """The X-ray, and the heatmap over it where there is one; `original` are the bytes that were uploaded.

    Raises ImageRefused, StorageUnavailable and Busy.
    """
    xray = Picture(XRAY, "image/jpeg", _small(original, sources))
    if not record.has_heatmap:
        return (xray,)
    heat = overlaid(record, original, sources.storage, sources.settings.results_bucket, sources.limits)
    return xray, Picture(HEATMAP, "image/png", heat)


def evidence_of(record: ResultRecord) -> tuple[Picture, ...]:
    """The heatmap alone, which shows nothing of the X-ray; nothing for results without a map."""
    if not (record.evidence and record.image):
        return ()
    return (Picture(EVIDENCE, "image/png", overlay(record.evidence, record.image.width, record.image.height)),)


def _small(original: bytes, sources: Sources) -> bytes:
    with sources.limits.work():
        image = Image.fromarray(decode(original, sources.limits, at_least=HEATMAP_SIDE).pixels)
    image.thumbnail((HEATMAP_SIDE, HEATMAP_SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()
