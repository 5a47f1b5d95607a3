"""The DICOM files of instances: uploads in pieces as the store gives them, and what results add, made when wanted."""

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError, ObjectGone
from lungline.imaging.dicom_header import transfer_syntax
from lungline.storage.s3 import Storage
from worklist.exports.dicom_studies import Instance
from worklist.exports.images import ImageRenderer
from worklist.exports.study_instances import instances_of

_PREAMBLE = b"\0" * 128 + b"DICM"
_META_GROUP = b"\x02\0"


@dataclass(frozen=True, slots=True)
class DicomPieces:
    """A DICOM file on its way."""

    syntax: str
    pieces: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DicomFiles:
    """Reads and makes them; every call raises ObjectGone, DataError, StorageUnavailable and Busy."""

    storage: Storage
    images: ImageRenderer
    results_bucket: str

    def open(self, instance: Instance) -> DicomPieces:
        """The file as it is stored, with the preamble that some senders leave out."""
        if instance.form != "upload":
            with self.reading(instance) as data:
                return DicomPieces(transfer_syntax(data), iter((data,)))
        pieces = self.images.pieces(instance.record)
        first = next(pieces, b"")
        if first[128:132] != b"DICM":
            if first[:2] != _META_GROUP:
                raise DataError("The upload has no file header, so it is no file that others could read.")
            first = _PREAMBLE + first
        return DicomPieces(transfer_syntax(first), chain((first,), pieces))

    @contextmanager
    def reading(self, instance: Instance, copies: int = 1) -> Generator[bytes]:
        """The whole file, in the memory that images may take until the context ends, for as many copies of it."""
        if instance.form == "upload":
            with self.images.reading(instance.record, copies) as data:
                yield data
            return
        with instances_of(instance.record, self.storage, self.images, self.results_bucket) as made:
            yield made.report() if instance.form == "report" else made.capture()


def frame(data: bytes, number: int) -> tuple[str, bytes]:
    """Transfer syntax and pixels of a frame as they are stored; the first is 1.

    Raises ObjectGone when there is no such frame, DataError when it cannot be given as it is.
    """
    quiet_dicom(__name__)
    try:
        dicom = dcmread(io.BytesIO(data), force=True)
        syntax, pixels = UID(dicom.file_meta.TransferSyntaxUID), bytes(dicom.PixelData)
        frames = int(dicom.get("NumberOfFrames") or 1)
        if not 1 <= number <= frames:
            raise ObjectGone("There is no such frame.")
        if syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
            return syntax, get_frame(pixels, number - 1, number_of_frames=frames)
        if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
            raise DataError("Frames of this transfer syntax are not served; retrieve the instance.")
        size = -(-int(dicom.Rows) * int(dicom.Columns) * int(dicom.SamplesPerPixel) * int(dicom.BitsAllocated) // 8)
    except (InvalidDicomError, AttributeError, TypeError, ValueError, OSError, NotImplementedError, KeyError) as exc:
        raise DataError(f"The pixels cannot be read ({type(exc).__name__}).") from None
    if len(pixels) < number * size:
        raise DataError("The pixels end too early.")
    return syntax, pixels[(number - 1) * size : number * size]
