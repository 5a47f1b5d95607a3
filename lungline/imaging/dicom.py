"""Decode a DICOM file: check that it is an X-ray, and convert its first frame to grey levels.

Radiographs (CR, DX) and secondary captures are accepted, in every transfer syntax that hospitals use; everything else
is refused by name. Limits are checked before any pixel is read.

Sources: DICOM PS3.3 (information objects), PS3.4 B.5 (storage classes).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.imaging import dicom_codecs, dicom_windowing
from lungline.imaging.dicom_codecs import Shape
from lungline.imaging.dicom_header import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MEDIA_CLASS,
    DicomFile,
    first_frame,
    inflate_pixels,
    is_dicom,
    read_file,
)
from lungline.imaging.dicom_windowing import Stored
from lungline.imaging.image import CheckSize, Pixels

__all__ = ["Frame", "Raw", "colours", "grey_of", "is_dicom", "read", "read_raw", "storage_class"]

_CLASS, _MODALITY, _BODY_PART, _INTENT, _VIEW = 0x00080016, 0x00080060, 0x00180015, 0x00080068, 0x00185101
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED = (
    *(0x00280010, 0x00280011, 0x00280100),
    *(0x00280101, 0x00280102, 0x00280103),
)
_NEEDED = dicom_windowing.NEEDED | {
    *(_CLASS, _MODALITY, _BODY_PART, _INTENT, _VIEW, _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES),
    *(_ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED),
}

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RADIOGRAPHS = {_STORAGE + last for last in ("1", "1.1", "1.1.1")}
_CAPTURES = {_STORAGE + last for last in ("7", "7.2", "7.3", "7.4")}
_RADIOGRAPHY = {"CR", "DX", "RG", "DR"}
# The modalities of secondary captures of X-rays: other, external camera, film digitiser, hard copy, none.
_CAPTURED = _RADIOGRAPHY | {"OT", "SC", "XC", "FD", "HC", ""}
_NAMES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "MG": "mammography",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "XA": "angiography",
    "RF": "fluoroscopy",
    "IO": "intra-oral radiography",
    "PX": "panoramic radiography",
    "SR": "structured report",
    "ECG": "an ECG",
    "SEG": "segmentation",
    "PR": "presentation state",
    "RTSTRUCT": "radiotherapy",
    "RTDOSE": "radiotherapy",
    "RTPLAN": "radiotherapy",
    "DOC": "document",
    "ES": "endoscopy",
    "OP": "ophthalmology",
}
_CHEST = {"CHEST", "THORAX", "LUNG", "RIBS", "RIB", "TORSO", "CHESTABDOMEN", "HEART", ""}
_LATERAL = {"LL", "RL", "LATERAL"}
_PLAIN_SYNTAXES = {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED}


@dataclass(frozen=True, slots=True)
class Frame:
    """The first frame: uint8 (H, W), bright is dense, or (H, W, 3) in RGB; and warnings about its conversion."""

    pixels: Pixels
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """The first frame as stored: bit patterns (H, W) or (H, W, 3), uint8 or uint16."""

    file: DicomFile
    patterns: npt.NDArray[np.unsignedinteger]
    stored: Stored
    photometric: str


def read(data: bytes, check_size: CheckSize) -> Frame:
    """Decode the first frame of a DICOM file.

    Raises ImageRefused: not-an-xray, unsupported-format, truncated, corrupt, and what `check_size` raises.
    """
    raw = read_raw(data, check_size)
    warnings = _header_warnings(raw.file)
    if raw.patterns.ndim == 3:
        return Frame(colours(raw), tuple(warnings))
    pixels, conversions = grey_of(raw)
    return Frame(pixels, (*warnings, *conversions))


def grey_of(raw: Raw) -> tuple[Pixels, list[str]]:
    """Convert a single-channel frame to grey levels, bright is dense; also return warnings about the conversion."""
    return dicom_windowing.grey_levels(raw.patterns, raw.stored, raw.file, inverted=raw.photometric == "MONOCHROME1")


def read_raw(data: bytes, check_size: CheckSize) -> Raw:
    """Read the first frame as stored; raises as `read` does."""
    file = read_file(data, _NEEDED)
    _check_kind(file)
    if file.pixels is None:
        raise ImageRefused("corrupt", "The DICOM contains no image.")
    shape = Shape(file.number(_COLUMNS), file.number(_ROWS), file.number(_SAMPLES, 1), file.number(_ALLOCATED))
    check_size(shape.width, shape.height)
    stored, photometric = _check_format(file, shape)
    if file.syntax in dicom_codecs.COMPRESSED:
        check_size(shape.width, shape.height * shape.samples)
        frame = first_frame(file.pixels, file.order, _frames(file))
        patterns = dicom_codecs.values(file.syntax, frame, shape)
        stored = Stored(stored.allocated, stored.bits, stored.bits - 1, stored.signed)
        patterns = patterns.view(f"u{patterns.dtype.itemsize}")
        if file.syntax in dicom_codecs.JPEG_2000 and stored.signed and patterns.dtype.itemsize * 8 < shape.bits:
            patterns = patterns.view(np.int8).astype(np.int16).view(np.uint16)
    else:
        patterns = _plain(file, file.pixels, data, shape)
    return Raw(file, patterns.astype(f"u{shape.bits // 8}", copy=False), stored, photometric)


def _frames(file: DicomFile) -> int:
    return max(1, int(file.decimal(_FRAMES) or 1))


def _check_kind(file: DicomFile) -> None:
    """Raise for anything but a radiograph, and name it."""
    storage = file.text(_CLASS) or file.text(MEDIA_CLASS)
    modality = file.text(_MODALITY).upper()
    if storage in _RADIOGRAPHS and modality in _RADIOGRAPHY | {""}:
        return
    if (storage in _CAPTURES or not storage) and modality in _CAPTURED:
        return
    # Only codes of the standard are quoted: another value could be personal data.
    name = f"{_NAMES[modality]} ({modality})" if modality in _NAMES else "of another kind"
    raise ImageRefused("not-an-xray", f"The DICOM is {name}; expected a radiograph (CR, DX) or a secondary capture.")


def _check_format(file: DicomFile, shape: Shape) -> tuple[Stored, str]:
    photometric = file.text(_PHOTOMETRIC).upper()
    bits = file.number(_STORED, shape.bits)
    high = file.number(_HIGH, bits - 1 if bits else 0)
    if file.syntax not in _PLAIN_SYNTAXES | dicom_codecs.COMPRESSED:
        raise ImageRefused("unsupported-format", "The DICOM's transfer syntax is not supported.")
    if file.encapsulated != (file.syntax in dicom_codecs.COMPRESSED):
        raise ImageRefused("corrupt", "The DICOM's pixels are not encoded as its header states.")
    is_grey = shape.samples == 1 and shape.bits in (8, 16) and photometric in ("MONOCHROME1", "MONOCHROME2")
    is_colour = shape.samples == 3 and shape.bits == 8 and photometric in ("RGB", *_LUMA_FORMATS)
    if not is_grey and not is_colour:
        raise ImageRefused(
            "unsupported-format",
            f"The DICOM has {shape.samples} samples of {shape.bits} bits in a format that is not supported.",
        )
    if not 1 <= bits <= shape.bits or not bits - 1 <= high < shape.bits:
        raise ImageRefused("corrupt", f"The DICOM says that {bits} of {shape.bits} bits up to bit {high} are in use.")
    return Stored(shape.bits, bits, high, file.number(_SIGNED, 0) == 1), photometric


_LUMA_FORMATS = ("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def _plain(file: DicomFile, pixels: bytes, data: bytes, shape: Shape) -> npt.NDArray[np.unsignedinteger]:
    """Return uncompressed pixels."""
    if file.text(_PHOTOMETRIC).upper() == "YBR_FULL_422":
        raise ImageRefused("unsupported-format", "The DICOM's colours are subsampled without compression.")
    size = shape.width * shape.height * shape.samples
    needed = size * shape.bits // 8
    if file.syntax == DEFLATED and len(pixels) < needed:
        pixels = inflate_pixels(data, needed)
    if len(pixels) < needed:
        raise ImageRefused("truncated", f"The DICOM has {len(pixels):,} bytes of pixels; expected {needed:,}.")
    code = f"{'>' if file.order == '>' else '<'}u{shape.bits // 8}"
    flat = np.frombuffer(pixels, code, size)
    if shape.samples == 1:
        return flat.reshape(shape.height, shape.width)
    if file.number(_PLANAR, 0) == 1:
        return flat.reshape(shape.samples, shape.height, shape.width).transpose(1, 2, 0)
    return flat.reshape(shape.height, shape.width, shape.samples)


def colours(raw: Raw) -> Pixels:
    """Convert a colour frame to RGB; decoders of compressed frames return RGB already."""
    from PIL import Image

    pixels = np.ascontiguousarray(raw.patterns.astype(np.uint8, copy=False))
    if raw.photometric == "YBR_FULL" and raw.file.syntax not in dicom_codecs.JPEG:
        return np.asarray(Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes()).convert("RGB"))
    return pixels


def _header_warnings(file: DicomFile) -> list[str]:
    """Return what a reader should know; never in the words of the file, which may be personal data."""
    warnings: list[str] = []
    if not file.has_preamble:
        warnings.append("DICOM without its preamble")
    if (frames := _frames(file)) > 1:
        warnings.append(f"first of {frames} frames")
    if file.text(_BODY_PART).upper().replace(" ", "") not in _CHEST:
        warnings.append("the DICOM names another body part than the chest")
    if file.text(_VIEW).upper() in _LATERAL:
        warnings.append("the DICOM names a lateral view")
    if file.text(_INTENT).upper() == "FOR PROCESSING":
        warnings.append("the DICOM holds raw detector values, not meant for viewing")
    return warnings


def storage_class(raw: Raw) -> str | None:
    """Return the storage class of an accepted file, if it names one."""
    named = raw.file.text(_CLASS)
    return named if named in _RADIOGRAPHS | _CAPTURES else None
