"""Decode a DICOM file: check that it is an X-ray, and convert its first frame to grey levels.

Radiographs (CR, DX) and secondary captures are accepted, in every transfer syntax that hospitals use; everything else
is refused by name. Limits are checked before any pixel is read.

Sources: DICOM PS3.3 (information objects), PS3.4 B.5 (storage classes).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.imaging import dicom_codecs, dicom_geometry, dicom_view, dicom_windowing, jpeg
from lungline.imaging.dicom_codecs import Shape
from lungline.imaging.dicom_elements import PIXEL_DATA
from lungline.imaging.dicom_frames import first_frame
from lungline.imaging.dicom_geometry import Turn
from lungline.imaging.dicom_header import (
    CHARACTER_SET,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MEDIA_CLASS,
    DicomFile,
    inflate_pixels,
    is_dicom,
    read_file,
)
from lungline.imaging.dicom_windowing import Levels, Stored
from lungline.imaging.image import CheckSize, Pixels

__all__ = ["Frame", "Raw", "grey_of", "is_dicom", "read", "read_raw", "storage_class"]

_CLASS, _MODALITY, _INTENT = 0x00080016, 0x00080060, 0x00080068
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED = (
    *(0x00280010, 0x00280011, 0x00280100),
    *(0x00280101, 0x00280102, 0x00280103),
)
NEEDED = (
    dicom_windowing.NEEDED
    | dicom_geometry.NEEDED
    | dicom_view.NEEDED
    | {
        *(CHARACTER_SET, _CLASS, _MODALITY, _INTENT, _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES),
        *(_ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED),
    }
)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_DICOMDIR = "1.2.840.10008.1.3.10"
RADIOGRAPHS = {_STORAGE + last for last in ("1", "1.1", "1.1.1")}
CAPTURES = {_STORAGE + last for last in ("7", "7.2", "7.3", "7.4")}
# Radiography under its codes, retired and unofficial ones included; other, external camera, film digitiser, hard copy.
_MODALITIES = {"CR", "DX", "RG", "DR", "XR", "RX", "OT", "SC", "XC", "FD", "HC", ""}
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
_GREY_FORMATS = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR_FORMATS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_OTHER_FORMATS = {"PALETTE COLOR", "ARGB", "HSV", "CMYK", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "XYB"}
SYNTAXES = {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED} | dicom_codecs.COMPRESSED
"""Every transfer syntax that is decoded."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The first frame, upright and in true proportion: uint8 (H, W), bright is dense, or (H, W, 3) in RGB.

    `warnings`, `notes` and `not_frontal` are those of `DecodedImage`.
    """

    pixels: Pixels
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    not_frontal: str | None


@dataclass(frozen=True, slots=True)
class Raw:
    """The first frame as stored, but upright and without margins of padding.

    `patterns` are bit patterns (H, W), uint8 or uint16, or red, green and blue (H, W, 3), uint8. `turn` is how they
    were turned; `notes` are about turning and cutting.
    """

    file: DicomFile
    patterns: npt.NDArray[np.unsignedinteger]
    stored: Stored
    photometric: str
    turn: Turn
    notes: tuple[str, ...]


def read(data: bytes, check_size: CheckSize, max_pixels: float = np.inf, header: DicomFile | None = None) -> Frame:
    """Decode the first frame of a DICOM file; `header` has at least the elements in NEEDED, if somebody has read them.

    Raises ImageRefused: not-an-xray, unsupported-format, truncated, corrupt, and what `check_size` raises.
    """
    raw = read_raw(data, check_size, header)
    view = dicom_view.read_view(raw.file)
    levels = Levels(raw.patterns.astype(np.uint8), (), ()) if raw.patterns.ndim == 3 else grey_of(raw)
    ratio = dicom_geometry.aspect(raw.file)
    most = max_pixels / 3 if levels.pixels.ndim == 3 else max_pixels
    pixels = dicom_geometry.in_proportion(levels.pixels, 1 / ratio if raw.turn.transpose else ratio, most)
    check_size(pixels.shape[1], pixels.shape[0])
    notes = ["DICOM without its preamble"] * (not raw.file.has_preamble)
    notes += ["pixels that are not square were given their true proportion"] * (pixels.shape != levels.pixels.shape)
    return Frame(
        pixels=pixels,
        warnings=(*view.warnings, *_header_warnings(raw.file), *levels.warnings),
        notes=(*notes, *raw.notes, *levels.notes),
        not_frontal=view.not_frontal or raw.turn.not_frontal,
    )


def grey_of(raw: Raw) -> Levels:
    """Convert a single-channel frame to grey levels, bright is dense."""
    inverted = dicom_windowing.is_inverted(raw.photometric, raw.file)
    return dicom_windowing.grey_levels(raw.patterns, raw.stored, raw.file, inverted=inverted)


def values_of(raw: Raw) -> npt.NDArray[np.int32]:
    """Return the stored values (H, W) of a single-channel frame; padding that does not fit in its bits gets black."""
    values = dicom_windowing.look_up(raw.patterns, raw.stored.domain().astype(np.int32))
    if has_wide_padding(raw):
        padding = dicom_windowing.padding_patterns(raw.stored, raw.file)[raw.patterns]
        measured = values[~padding] if not padding.all() else values
        is_inverted = dicom_windowing.is_inverted(raw.photometric, raw.file)
        values[padding] = measured.max() if is_inverted else measured.min()
    return values


def has_wide_padding(raw: Raw) -> bool:
    """Whether the value of padding does not fit in the bits in use."""
    return dicom_windowing.is_wide_padding(raw.stored, raw.file)


def read_raw(data: bytes, check_size: CheckSize, header: DicomFile | None = None) -> Raw:
    """Read the first frame without converting its values; raises as `read` does."""
    file = header.only(NEEDED) if header else read_file(data, NEEDED)
    _check_kind(file)
    if (pixels := file.pixels) is None:
        raise ImageRefused("corrupt", "The DICOM contains no image.")
    shape = Shape(file.number(_COLUMNS), file.number(_ROWS), file.number(_SAMPLES, 1), file.number(_ALLOCATED))
    check_size(shape.width, shape.height)
    stored, photometric = _check_format(file, shape)
    if file.syntax in dicom_codecs.COMPRESSED:
        check_size(shape.width, shape.height * shape.samples)
        frame = first_frame(pixels, file.order, _frames(file))
        patterns = dicom_codecs.values(file.syntax, frame, shape, is_luma=photometric in ("YBR_FULL", "YBR_FULL_422"))
        stored = Stored(stored.allocated, stored.bits, stored.bits - 1, stored.signed)
        patterns = patterns.view(f"u{patterns.dtype.itemsize}")
        if file.syntax in dicom_codecs.JPEG_2000 and stored.signed and patterns.dtype.itemsize * 8 < shape.bits:
            patterns = patterns.view(np.int8).astype(np.int16).view(np.uint16)
    else:
        patterns = _plain(file, pixels, data, shape, photometric)
    return _upright(file, patterns.astype(f"u{shape.bits // 8}", copy=False), stored, photometric)


def _upright(file: DicomFile, patterns: npt.NDArray[np.unsignedinteger], stored: Stored, photometric: str) -> Raw:
    turn, notes = dicom_geometry.read_turn(file), list[str]()
    if patterns.ndim == 2 and (padding := dicom_windowing.padding_patterns(stored, file)).any():
        whole = patterns.shape
        patterns = patterns[dicom_geometry.padding_margins(padding[patterns])]
        notes += ["margins of padding were cut off"] * (patterns.shape != whole)
    if turn.is_needed:
        patterns = np.ascontiguousarray(turn.apply(patterns))
        notes.append(dicom_geometry.TURNED)
    return Raw(file, patterns, stored, photometric, turn, tuple(notes))


def orientation(data: bytes) -> tuple[str, str] | None:
    """Return the patient orientation of a DICOM file's image as it is decoded, None if the file does not state it."""
    turn = dicom_geometry.read_turn(read_file(data, NEEDED))
    return turn.orientation or None


def _frames(file: DicomFile) -> int:
    return max(1, int(file.decimal(_FRAMES) or 1))


def _check_kind(file: DicomFile) -> None:
    """Raise for anything but a radiograph, and name it."""
    storage = file.text(_CLASS) or file.text(MEDIA_CLASS)
    modality = file.text(_MODALITY).upper()
    if storage in RADIOGRAPHS | CAPTURES | {""} and modality in _MODALITIES:
        return
    if storage == _DICOMDIR:
        raise ImageRefused("not-an-xray", "The file is a DICOMDIR, an index of files; expected a radiograph (CR, DX).")
    # Only codes of the standard are quoted: another value could be personal data.
    name = f"{_NAMES[modality]} ({modality})" if modality in _NAMES else "of another kind"
    raise ImageRefused("not-an-xray", f"The DICOM is {name}; expected a radiograph (CR, DX) or a secondary capture.")


def _check_format(file: DicomFile, shape: Shape) -> tuple[Stored, str]:
    photometric = file.text(_PHOTOMETRIC).upper()
    bits = file.number(_STORED, shape.bits)
    high = file.number(_HIGH, bits - 1 if bits else 0)
    if file.syntax not in SYNTAXES:
        raise ImageRefused("unsupported-format", "The DICOM's transfer syntax is not supported.")
    if file.encapsulated != (file.syntax in dicom_codecs.COMPRESSED):
        raise ImageRefused("corrupt", "The DICOM's pixels are not encoded as its header states.")
    if problem := _unsupported(shape, photometric):
        raise ImageRefused("unsupported-format", problem)
    if not 1 <= bits <= shape.bits or not bits - 1 <= high < shape.bits:
        raise ImageRefused("corrupt", f"The DICOM says that {bits} of {shape.bits} bits up to bit {high} are in use.")
    return Stored(shape.bits, bits, high, file.number(_SIGNED, 0) == 1), photometric


def _unsupported(shape: Shape, photometric: str) -> str | None:
    """Return why pixels of this format are not supported, None if they are."""
    if not photometric:
        return "The DICOM does not state its photometric interpretation, (0028,0004)."
    if photometric not in _GREY_FORMATS | _COLOUR_FORMATS:
        name = f"photometric interpretation {photometric}" if photometric in _OTHER_FORMATS else "pixel format"
        return f"The DICOM's {name} is not supported; expected MONOCHROME1, MONOCHROME2, RGB or YBR."
    if shape.bits not in (8, 16):
        return f"The DICOM has {shape.bits} bits a sample; expected 8 or 16."
    if shape.samples != (1 if photometric in _GREY_FORMATS else 3):
        return f"The DICOM has {shape.samples} samples a pixel, which {photometric} does not have."
    if shape.samples == 3 and shape.bits != 8:
        return f"The DICOM has colours of {shape.bits} bits a sample; expected 8."
    return None


def _plain(
    file: DicomFile, pixels: bytes, data: bytes, shape: Shape, photometric: str
) -> npt.NDArray[np.unsignedinteger]:
    """Return uncompressed pixels, colours in RGB."""
    is_subsampled = photometric == "YBR_FULL_422"
    size = shape.width * shape.height * (2 if is_subsampled else shape.samples)
    needed = size * shape.bits // 8
    if file.syntax == DEFLATED:
        pixels = inflate_pixels(data, needed)
    if len(pixels) < needed:
        raise ImageRefused("truncated", f"The DICOM has {len(pixels):,} bytes of pixels; expected {needed:,}.")
    if file.order == ">" and shape.bits == 8 and file.vrs.get(PIXEL_DATA) == b"OW":
        words = np.frombuffer(pixels + b"\0" * (len(pixels) % 2), np.uint16)
        pixels = words.byteswap().tobytes()  # bytes of big endian words (PS3.5 8.1.2)
    code = f"{'>' if file.order == '>' else '<'}u{shape.bits // 8}"
    flat = np.frombuffer(pixels, code, size)
    if shape.samples == 1:
        return flat.reshape(shape.height, shape.width)
    if is_subsampled:
        components = _upsampled(flat, shape)
    elif file.number(_PLANAR, 0) == 1:
        components = flat.reshape(shape.samples, shape.height, shape.width).transpose(1, 2, 0)
    else:
        components = flat.reshape(shape.height, shape.width, shape.samples)
    return components if photometric == "RGB" else jpeg.luma_to_rgb(components.astype(np.uint8, copy=False))


def _upsampled(flat: npt.NDArray[np.unsignedinteger], shape: Shape) -> npt.NDArray[np.unsignedinteger]:
    """Return luma and chroma (H, W, 3) of pairs of pixels that are stored as Y1, Y2, Cb, Cr."""
    if shape.width % 2:
        raise ImageRefused("corrupt", "The DICOM's colours are subsampled, but its number of columns is odd.")
    pairs = flat.reshape(shape.height, shape.width // 2, 4)
    luma = pairs[..., :2].reshape(shape.height, shape.width)
    return np.dstack([luma, np.repeat(pairs[..., 2], 2, axis=1), np.repeat(pairs[..., 3], 2, axis=1)])


def _header_warnings(file: DicomFile) -> list[str]:
    """Return what a reader should know; never in the words of the file, which may be personal data."""
    warnings: list[str] = []
    if (frames := _frames(file)) > 1:
        warnings.append(f"first of {frames} frames")
    if file.text(_INTENT).upper() == "FOR PROCESSING":
        warnings.append("the DICOM holds raw detector values, not meant for viewing")
    return warnings


def storage_class(raw: Raw) -> str | None:
    """Return the storage class of an accepted file, if it names one."""
    named = raw.file.text(_CLASS)
    return named if named in RADIOGRAPHS | CAPTURES else None
