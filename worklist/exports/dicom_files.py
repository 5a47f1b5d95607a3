"""The DICOM files of instances: uploads in pieces as the store gives them, and what results add, made when wanted."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from pydicom.encaps import get_frame

from lungline.errors import DataError, ObjectGone
from lungline.imaging.dicom_header import DEFLATED, EXPLICIT_BIG, read_file, transfer_syntax
from worklist.exports.dicom_studies import Instance
from worklist.exports.images import ImageRenderer
from worklist.exports.source_header import UNREADABLE
from worklist.exports.study_instances import instances_of

_PREAMBLE = b"\0" * 128 + b"DICM"
_META_GROUP = b"\x02\0"
_ROWS, _COLUMNS, _SAMPLES, _BITS, _FRAMES = 0x00280010, 0x00280011, 0x00280002, 0x00280100, 0x00280008
_PIXEL_TAGS = frozenset((_ROWS, _COLUMNS, _SAMPLES, _BITS, _FRAMES))


@dataclass(frozen=True, slots=True)
class DicomPieces:
    """A DICOM file on its way."""

    syntax: str
    pieces: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DicomFiles:
    """Reads and makes them; every call raises ObjectGone, DataError, StorageUnavailable and Busy."""

    images: ImageRenderer

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
        with instances_of(instance.record, self.images) as made:
            yield made.report() if instance.form == "report" else made.capture()


def frame(data: bytes, number: int) -> tuple[str, bytes]:
    """Transfer syntax and pixels of a frame as they are stored; the first is 1.

    Raises ObjectGone when there is no such frame, DataError when it cannot be given as it is, ImageRefused for a header
    that is damaged or hostile.
    """
    file = read_file(data, _PIXEL_TAGS)
    pixels = file.pixels
    if pixels is None or file.syntax in (DEFLATED, EXPLICIT_BIG):
        raise DataError("Frames of this file are not served; retrieve the instance.")
    frames = round(file.decimal(_FRAMES) or 1)
    if not 1 <= number <= frames:
        raise ObjectGone("There is no such frame.")
    if file.encapsulated:
        try:
            return file.syntax, get_frame(pixels, number - 1, number_of_frames=frames)
        except UNREADABLE as exc:
            raise DataError(f"The frame cannot be read ({type(exc).__name__}).") from None
    bits = file.number(_ROWS) * file.number(_COLUMNS) * file.number(_SAMPLES, 1) * file.number(_BITS)
    size = -(-bits // 8)
    if len(pixels) < number * size:
        raise DataError("The pixels end too early.")
    return file.syntax, pixels[(number - 1) * size : number * size]
