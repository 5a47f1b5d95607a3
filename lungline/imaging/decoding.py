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
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from lungline.errors import ImageRefused
from lungline.imaging import dicom
from lungline.imaging.bmp_webp import BMP_MAGIC, is_webp, read_bmp, read_webp
from lungline.imaging.image import CheckSize, DecodedImage, Limits, Pixels
from lungline.imaging.jpeg_png import JPEG_MAGIC, PNG_MAGIC, Container, read_jpeg, read_png
from lungline.imaging.tiff import TIFF_MAGICS, read_tiff

_COLOUR_THUMBNAIL = 32
_SUPPORTED = "expected JPEG, PNG, TIFF, BMP, WebP or DICOM"


def decode(data: bytes, limits: Limits = Limits(), *, at_least: int | None = None) -> DecodedImage:  # noqa: B008 - frozen
    """Decode an image file.

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
    check_size = limits.for_file(len(data))
    if dicom.is_dicom(data):
        return _decode_dicom(dicom.read(data, check_size))
    for image_format in _FORMATS:
        if image_format.matches(data):
            container = image_format.read(data, check_size)
            return _decode_container(container, partial(image_format.load, container, at_least))
    raise _unknown(data)


def _decode_dicom(frame: dicom.Frame) -> DecodedImage:
    """Decode the first frame of a DICOM file; a colour frame is converted like any colour image."""
    height, width = frame.pixels.shape[:2]
    if frame.pixels.ndim == 2:
        return DecodedImage(frame.pixels, "dicom", width, height, 0.0, frame.warnings)
    grey, colour, warnings = _grey(Image.fromarray(frame.pixels))
    return DecodedImage(grey, "dicom", width, height, colour, (*frame.warnings, *warnings))


def _load_jpeg(container: Container, at_least: int | None) -> Image.Image:
    image = JpegImageFile(io.BytesIO(container.data))
    # Luma is the grey image as it is stored; libjpeg cannot give it beside the chroma of an RGB file.
    mode = "YCbCr" if container.components == 3 and not container.rgb else None
    image.draft(mode, (at_least, at_least) if at_least else None)
    image.load()
    return image


def _load_by(plugin: str, name: str) -> Callable[[Container, int | None], Image.Image]:
    """Return a loader for a format without reduced decoding; its Pillow plugin is imported on first use."""

    def load(container: Container, at_least: int | None) -> Image.Image:  # noqa: ARG001
        image: Image.Image = getattr(importlib.import_module(f"PIL.{plugin}"), name)(io.BytesIO(container.data))
        image.load()
        return image

    return load


@dataclass(frozen=True, slots=True)
class _Format:
    """How a format is detected, checked, and loaded; each step runs only after the previous one has passed."""

    matches: Callable[[bytes], bool]
    read: Callable[[bytes, CheckSize], Container]
    load: Callable[[Container, int | None], Image.Image]


_FORMATS = (
    _Format(lambda data: data.startswith(JPEG_MAGIC), read_jpeg, _load_jpeg),
    _Format(lambda data: data.startswith(PNG_MAGIC), read_png, _load_by("PngImagePlugin", "PngImageFile")),
    _Format(lambda data: data.startswith(TIFF_MAGICS), read_tiff, _load_by("TiffImagePlugin", "TiffImageFile")),
    _Format(lambda data: data.startswith(BMP_MAGIC), read_bmp, _load_by("BmpImagePlugin", "BmpImageFile")),
    _Format(is_webp, read_webp, _load_by("WebPImagePlugin", "WebPImageFile")),
)

# Formats that people do send. They are refused by name, so that the sender knows what to convert.
_NAMED_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"II+\0", "BigTIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"%PDF", "PDF"),
)


def _unknown(data: bytes) -> ImageRefused:
    for offset, magic, name in _NAMED_FORMATS:
        if data.startswith(magic, offset):
            return ImageRefused("unsupported-format", f"The file is {name}; {_SUPPORTED}.")
    if JPEG_MAGIC.startswith(data) or PNG_MAGIC.startswith(data):
        return ImageRefused("truncated", f"The file ends after {len(data)} bytes.")
    return ImageRefused("not-an-image", f"The file's content is not an image; {_SUPPORTED}.")


def _decode_container(container: Container, load: Callable[[], Image.Image]) -> DecodedImage:
    """Load and convert the pixels; any error that Pillow raises for damaged data becomes a refusal."""
    try:
        grey, colour, warnings = _grey(load())
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as exc:  # Pillow names no closed set of errors for damaged files
        name = container.format.upper()
        if "truncated" in str(exc):
            raise ImageRefused("truncated", f"The {name}'s pixels end early: its last part is missing.") from exc
        raise ImageRefused("corrupt", f"The {name}'s pixels cannot be decoded.") from exc
    if container.inverted:
        grey = np.bitwise_not(grey)
    width, height = container.width, container.height
    if container.orientation > 4:
        width, height = height, width
    return DecodedImage(_upright(grey, container.orientation), container.format, width, height, colour, tuple(warnings))


def _grey(image: Image.Image) -> tuple[Pixels, float, list[str]]:
    """Return grey pixels, the mean chroma, and warnings about what was converted."""
    warnings: list[str] = []
    if image.mode.startswith("I"):
        return _eight_bits(np.asarray(image)), 0.0, ["16 bit reduced to 8 by min-max"]
    if image.has_transparency_data:
        image, transparent = _on_black(image)
        warnings += ["transparency placed on black"] * transparent
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), 0.0, warnings
    colour = mean_chroma(image)
    if colour > 0.01:
        warnings.append("colour image converted to grey")
    grey = image.getchannel(0) if image.mode == "YCbCr" else _opaque(image).convert("L")
    return np.asarray(grey), colour, warnings


def _opaque(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_black(image: Image.Image) -> tuple[Image.Image, bool]:
    """Composite the image on black; also return whether any pixel was transparent."""
    image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    alpha = image.getchannel("A")
    grey_or_rgb = image.convert("L" if image.mode == "LA" else "RGB")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return grey_or_rgb, False
    return Image.composite(grey_or_rgb, Image.new(grey_or_rgb.mode, image.size), alpha), True


def mean_chroma(image: Image.Image) -> float:
    """Return the mean of max(R, G, B) - min(R, G, B), from 0 to 1, computed on a thumbnail."""
    if min(image.size) > _COLOUR_THUMBNAIL and image.mode not in ("P", "1"):
        image = image.reduce(min(image.size) // _COLOUR_THUMBNAIL)
    rgb = np.asarray(image.convert("RGB")).astype(np.int16)
    return float((rgb.max(axis=2) - rgb.min(axis=2)).mean() / 255)


def _eight_bits(pixels: npt.NDArray[np.generic]) -> Pixels:
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (255 / max(high - low, 1))).astype(np.uint8)


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
