"""The heatmap of a result over its X-ray: as an earlier version stored it, or drawn now from the record's map."""

from lungline.errors import ObjectGone
from lungline.imaging.decoding import decode
from lungline.imaging.heatmap import HEATMAP_SIDE, draw
from lungline.imaging.image import Limits
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage

_MOST_BYTES = 4 * 2**20


def overlaid(
    record: ResultRecord,
    original: bytes,
    storage: Storage,
    bucket: str,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> bytes:
    """A PNG of at most 512 pixels on its longest side; `original` are the bytes that were uploaded.

    Raises ObjectGone when there is none, ImageRefused, StorageUnavailable, and Busy as `decode` does.
    """
    if record.evidence is not None:
        with limits.work():
            return draw(decode(original, limits, at_least=HEATMAP_SIDE), record.evidence)
    if record.heatmap is None:
        raise ObjectGone("There is no heatmap for this upload.")
    return storage.get(bucket, record.heatmap, max_bytes=_MOST_BYTES).data
