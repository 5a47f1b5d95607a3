"""What a result adds to the patient's study: a Structured Report, and a Secondary Capture of its heatmap.

Both are made of the upload itself whenever they are wanted: whom the image is of is read there, and kept nowhere else.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lungline.errors import DataError, ImageRefused
from lungline.results.records import ResultRecord
from worklist.exports.images import ImageRenderer
from worklist.exports.secondary_capture import capture
from worklist.exports.structured_report import structured_report


@dataclass(frozen=True, slots=True)
class StudyInstances:
    """The DICOM instances of one result; `original` is the DICOM file that was uploaded.

    Making one raises DataError when nothing can be added to the upload's study.
    """

    record: ResultRecord
    original: bytes = field(repr=False)
    _images: ImageRenderer

    def report(self) -> bytes:
        """The Structured Report."""
        return structured_report(self.original, self.record)

    def capture(self) -> bytes:
        """The Secondary Capture. Raises ObjectGone and StorageUnavailable as well."""
        if not self.record.has_heatmap:
            raise DataError("The result has no heatmap.")
        try:
            overlaid = self._images.overlaid(self.record, self.original)
        except ImageRefused as exc:  # a predictor with more memory took it
            raise DataError(f"The heatmap cannot be drawn here: {exc}") from exc
        return capture(self.original, overlaid, self.record)


@contextmanager
def instances_of(record: ResultRecord, images: ImageRenderer) -> Generator[StudyInstances]:
    """Read an upload that is DICOM, in the memory that images may take until the context ends.

    Raises ObjectGone when it is gone or was overwritten, DataError when it is no DICOM, StorageUnavailable, Busy.
    """
    if record.image is None or record.image.format != "dicom":
        raise DataError("The upload is no DICOM file, so it is not known whose study the result belongs to.")
    with images.reading(record) as original:
        yield StudyInstances(record, original, images)
