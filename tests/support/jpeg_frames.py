"""Colour JPEG streams with every combination of markers and component ids, and DICOM files that hold them."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from lungline.imaging.jpeg import segments
from tests.support.dicom_files import BASELINE, CAPTURE, dataset
from tests.support.image_files import encoded

_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
MARKERS = {
    "none": b"",
    "jfif": _JFIF,
    "adobe-rgb": _ADOBE + b"\0",
    "adobe-ycc": _ADOBE + b"\1",
    "jfif-and-adobe-rgb": _JFIF + _ADOBE + b"\0",
    "jfif-and-adobe-ycc": _JFIF + _ADOBE + b"\1",
}
IDS = {"123": (1, 2, 3), "012": (0, 1, 2), "RGB": tuple(b"RGB")}
PHOTOMETRICS = ("RGB", "YBR_FULL", "YBR_FULL_422")


class Stream(NamedTuple):
    """`is_luma` if the components really are luma and chroma."""

    data: bytes
    is_luma: bool
    markers: str
    ids: str


def colours() -> np.ndarray:
    """An X-ray's greys with two coloured fields."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:] = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None]
    pixels[4:20, 4:20], pixels[24:40, 4:20] = (200, 60, 30), (30, 90, 200)
    return pixels


def streams() -> Iterator[Stream]:
    """All streams of `colours`."""
    image = Image.fromarray(colours())
    for is_luma in (True, False):
        data = encoded(image, "JPEG", quality=97, subsampling=0, keep_rgb=not is_luma)
        for markers, inserted in MARKERS.items():
            for name, ids in IDS.items():
                yield Stream(_marked(data, inserted, ids), is_luma, markers, name)


def _marked(data: bytes, inserted: bytes, ids: tuple[int, ...]) -> bytes:
    parts, position = [b"\xff\xd8", inserted], 2
    for marker, start, end in segments(data):
        position = end
        segment = bytearray(data[start:end])
        if marker == 0xC0:
            segment[10::3] = bytes(ids)
        if not 0xE0 <= marker <= 0xEF:
            parts.append(bytes(segment))
    scan = bytearray(data[position:])
    scan[5:11:2] = bytes(ids)
    return b"".join((*parts, bytes(scan)))


def dicom_of(stream: bytes, photometric: str) -> bytes:
    """A secondary capture whose frame is the stream."""
    file = dataset(colours(), storage=CAPTURE, Modality="OT", PhotometricInterpretation=photometric)
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = UID(BASELINE)
    file.file_meta.MediaStorageSOPClassUID = UID(CAPTURE)
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.PixelData = encapsulate([stream])
    file["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()
