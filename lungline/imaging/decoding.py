"""Decode an image file to grey pixels, or refuse it with a reason.

The format is detected from the content, never from the file name. All limits are checked on the header, so a
decompression bomb costs nothing. To add a format, add an entry to `_FORMATS`.
"""

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from lungline.errors import ImageRefused
from lungline.imaging import dicom, jpeg
from lungline.imaging.bmp_webp import BMP_MAGIC, is_webp, read_bmp, read_webp
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.grey import WHOLE_PIXELS, Grey, colour_warning, grey_of, mean_chroma
from lungline.imaging.image import CheckSize, DecodedImage, Limits, Pixels
from lungline.imaging.jpeg_png import JPEG_MAGIC, PNG_MAGIC, Container, read_jpeg, read_png
from lungline.imaging.tiff import TIFF_MAGICS, read_tiff

_STRIP_MEMORY = 40_000_000
_SUPPORTED = "expected JPEG, PNG, TIFF, BMP, WebP or DICOM"


def decode(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    *,
    at_least: int | None = None,
    header: DicomFile | None = None,
) -> DecodedImage:
    """Decode an image file; `header` is that of a DICOM file, if it has been read with the decoder's elements.

    `at_least` is the shortest side in pixels that the caller needs: a larger JPEG is decoded at 1/2, 1/4 or 1/8 of its
    size while that leaves enough, which is several times faster. The pixels differ a little from a full decode, so
    training and serving both use `Preparation.decode`, which sets it.
    Raises ImageRefused: empty, too-large, too-many-pixels, too-small, not-an-image, unsupported-format, truncated,
    corrupt, bomb, not-an-xray.
    """
    if not data:
        raise ImageRefused("empty", "The file is empty.")
    if len(data) > limits.max_bytes:
        raise ImageRefused("too-large", f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are read.")
    with limits.work():
        if dicom.is_dicom(data):
            check = limits.for_file(len(data), dicom_memory)
            return _decode_dicom(dicom.read(data, check, limits.max_pixels, header))
        for image_format in _FORMATS:
            if image_format.matches(data):
                container = image_format.read(data, limits.for_file(len(data), partial(image_format.memory, data)))
                if container.format == "jpeg":
                    limits.take(_jpeg_bytes(container, at_least))
                return _decode_container(container, partial(image_format.decode, container, at_least))
        raise _unknown(data)


def _decode_dicom(frame: dicom.Frame) -> DecodedImage:
    """Decode the first frame of a DICOM file; a colour frame is converted like any colour image."""
    height, width = frame.pixels.shape[:2]
    grey = Grey(frame.pixels) if frame.pixels.ndim == 2 else grey_of(Image.fromarray(frame.pixels))
    return DecodedImage(
        pixels=grey.pixels,
        format="dicom",
        width=width,
        height=height,
        colour=grey.colour,
        warnings=(*frame.warnings, *grey.warnings),
        notes=(*frame.notes, *grey.notes),
        not_frontal=frame.not_frontal,
    )


def _decode_jpeg(container: Container, at_least: int | None) -> Grey:
    """Decode a JPEG at 1/1, 1/2, 1/4 or 1/8 of its size."""
    size = _reduced(container, _scale(container, at_least))
    if container.components == 1:
        return Grey(jpeg.decode_grey(container.data, size))
    if container.components == 4:
        jpeg.check(container.data, size, cmyk=True)
        cmyk = JpegImageFile(io.BytesIO(container.data))
        cmyk.draft(None, (at_least, at_least) if at_least else None)
        return grey_of(cmyk)
    if container.rgb:
        return grey_of(Image.fromarray(jpeg.decode_rgb(container.data, size)))
    # Luma is the grey image as it is stored.
    thumbnail = jpeg.decode_rgb(container.data, _reduced(container, 8))
    colour = mean_chroma(Image.fromarray(thumbnail))
    return Grey(jpeg.decode_grey(container.data, size), colour, colour_warning(colour))


def _scale(container: Container, at_least: int | None) -> int:
    reduction = min(container.width, container.height) // at_least if at_least else 1
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(1, reduction))


def _jpeg_bytes(container: Container, at_least: int | None) -> int:
    """The memory that decoding a JPEG needs: reduced pixels, and all coefficients if it is progressive."""
    width, height = _reduced(container, _scale(container, at_least))
    coefficients = 2 * container.components * container.width * container.height if container.progressive else 0
    return 5 * width * height + coefficients + len(container.data)


def _reduced(container: Container, scale: int) -> tuple[int, int]:
    return -(-container.width // scale), -(-container.height // scale)


def _decode_png(container: Container, at_least: int | None) -> Grey:  # noqa: ARG001 - PNG has no reduced decoding
    from lungline.imaging.png_strips import decode_png

    return decode_png(container)


def dicom_memory(pixels: int) -> float:
    """The memory that decoding a DICOM of so many pixels needs at most: as run lengths of 16 bits, measured."""
    return 9 * pixels


def _png_memory(data: bytes, pixels: int) -> float:
    """The memory that decoding a PNG needs: in one piece when it is small or interlaced, else in strips."""
    depth, colour, interlaced = data[24], data[25], data[28]
    if interlaced:
        return 6 * pixels
    if pixels <= WHOLE_PIXELS:
        return (20 if colour in {3, 4, 6} else 8) * pixels if colour else 4 * pixels
    return (4 if depth == 16 else 2) * pixels + _STRIP_MEMORY


def _decode_by(plugin: str, name: str) -> Callable[[Container, int | None], Grey]:
    """Return a decoder for a format without reduced decoding; its Pillow plugin is imported on first use."""

    def decode(container: Container, at_least: int | None) -> Grey:  # noqa: ARG001
        return grey_of(getattr(importlib.import_module(f"PIL.{plugin}"), name)(io.BytesIO(container.data)))

    return decode


@dataclass(frozen=True, slots=True)
class _Format:
    """How a format is detected, checked, and decoded; each step runs only after the previous one has passed.

    `memory` is what decoding needs at most besides the file, by its content and its pixels; measured.
    """

    matches: Callable[[bytes], bool]
    read: Callable[[bytes, CheckSize], Container]
    decode: Callable[[Container, int | None], Grey]
    memory: Callable[[bytes, int], float]


def _each_pixel(size: int) -> Callable[[bytes, int], float]:
    return lambda _, pixels: size * pixels


_FORMATS = (
    _Format(lambda data: data.startswith(JPEG_MAGIC), read_jpeg, _decode_jpeg, _each_pixel(0)),
    _Format(lambda data: data.startswith(PNG_MAGIC), read_png, _decode_png, _png_memory),
    _Format(
        lambda data: data.startswith(TIFF_MAGICS),
        read_tiff,
        _decode_by("TiffImagePlugin", "TiffImageFile"),
        _each_pixel(7),
    ),
    _Format(
        lambda data: data.startswith(BMP_MAGIC),
        read_bmp,
        _decode_by("BmpImagePlugin", "BmpImageFile"),
        _each_pixel(5),
    ),
    _Format(is_webp, read_webp, _decode_by("WebPImagePlugin", "WebPImageFile"), _each_pixel(20)),
)

# Formats that people do send. They are refused by name, so that the sender knows what to convert.
_NAMED_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftyp", "a video (MP4 or QuickTime)"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"%PDF", "PDF"),
    (0, b"\x1f\x8b", "gzip; unpack it first"),
    (0, b"PK\x03\x04", "a ZIP archive; unpack it first"),
    (0, b"BZh", "bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (0, b"NRRD", "NRRD"),
    (0, b"ObjectType", "MetaImage"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"CDF", "NetCDF"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a GIMP image"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"qoif", "QOI"),
    (0, b"P4\n", "a PBM image"),
    (0, b"P5\n", "a PGM image"),
    (0, b"P5 ", "a PGM image"),
    (0, b"P6\n", "a PPM image"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\xd0\xcf\x11\xe0", "a Microsoft Office document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"%!PS", "PostScript"),
    (0, b"<!DOCTYPE html", "an HTML page"),
    (0, b"<!doctype html", "an HTML page"),
    (0, b"<html", "an HTML page"),
    (0, b"<HTML", "an HTML page"),
    (0, b"<svg", "SVG"),
)


def is_image(data: bytes) -> bool:
    """Whether a file begins as a format that `decode` reads."""
    return dicom.is_dicom(data) or any(image_format.matches(data) for image_format in _FORMATS)


def unsupported_format(data: bytes) -> str | None:
    """The name of a format that people send and that `decode` does not read; None for any other content."""
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    for offset, magic, name in _NAMED_FORMATS:
        if data.startswith(magic, offset) or (magic.startswith(b"<") and text.startswith(magic)):
            return name
    if text.startswith((b"<?xml", b"<!--")):
        return "SVG" if b"<svg" in data[:4096] else "an XML document"
    return None


def _unknown(data: bytes) -> ImageRefused:
    if name := unsupported_format(data):
        return ImageRefused("unsupported-format", f"The file is {name}; {_SUPPORTED}.")
    if JPEG_MAGIC.startswith(data) or PNG_MAGIC.startswith(data):
        return ImageRefused("truncated", f"The file ends after {len(data)} bytes.")
    return ImageRefused("not-an-image", f"The file's content is not an image; {_SUPPORTED}.")


def _decode_container(container: Container, decode_pixels: Callable[[], Grey]) -> DecodedImage:
    """Decode the pixels; any error that Pillow raises for damaged data becomes a refusal."""
    try:
        grey = decode_pixels()
    except (MemoryError, ImageRefused):
        raise  # the machine's fault, or a reason that is known
    except Exception as exc:  # Pillow names no closed set of errors for damaged files
        name = container.format.upper()
        if "truncated" in str(exc):
            raise ImageRefused("truncated", f"The {name}'s pixels end early: its last part is missing.") from exc
        raise ImageRefused("corrupt", f"The {name}'s pixels cannot be decoded.") from exc
    pixels = np.bitwise_not(grey.pixels) if container.inverted else grey.pixels
    width, height = container.width, container.height
    if container.orientation > 4:
        width, height = height, width
    return DecodedImage(
        pixels=_upright(pixels, container.orientation),
        format=container.format,
        width=width,
        height=height,
        colour=grey.colour,
        warnings=(*container.warnings, *grey.warnings),
        notes=grey.notes,
    )


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels upright; `orientation` is the EXIF value, 1 to 8."""
    if orientation > 4:
        pixels = pixels.T
    # Each remaining case flips rows, columns, or both.
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
