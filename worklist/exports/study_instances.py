"""What a result adds to the patient's study: a Structured Report, and a Secondary Capture of its heatmap.

Both are made of the upload itself whenever they are wanted: whom the image is of is read there, and kept nowhere else.
"""

from dataclasses import dataclass

from lungline.errors import DataError
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from worklist.exports.images import ImageRenderer
from worklist.exports.secondary_capture import capture
from worklist.exports.structured_report import structured_report


@dataclass(frozen=True, slots=True)
class StudyInstances:
    """Makes the DICOM instances of results.

    Every call raises ObjectGone when the upload is gone or was overwritten, StorageUnavailable, and DataError when the
    upload is no DICOM, or one that nothing can be added to.
    """

    storage: Storage
    images: ImageRenderer
    results_bucket: str

    def report(self, record: ResultRecord) -> bytes:
        """The Structured Report."""
        return structured_report(self.original(record), record)

    def capture(self, record: ResultRecord) -> bytes:
        """The Secondary Capture."""
        if record.heatmap is None:
            raise DataError("The result has no heatmap.")
        overlaid = self.storage.get(self.results_bucket, record.heatmap).data
        return capture(self.original(record), overlaid, record)

    def original(self, record: ResultRecord) -> bytes:
        """The DICOM file that was uploaded."""
        if record.image is None or record.image.format != "dicom":
            raise DataError("The upload is no DICOM file, so it is not known whose study the result belongs to.")
        return self.images.original(record)
