"""Decode 8-bit JPEG streams with libjpeg-turbo, and refuse those whose damage it would repair.

libjpeg fills what is missing with grey and goes on; only its warnings tell. `simplejpeg` passes them on, which neither
Pillow nor imagecodecs do, and it is the fastest of the three.
"""

import numpy as np
import numpy.typing as npt
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from PIL import Image

from lungline.errors import ImageRefused

Pixels = npt.NDArray[np.uint8]

# Other warnings are about harmless errors in headers, which some equipment writes.
_DAMAGE = ("Corrupt JPEG data", "Premature end")
_STORED_AS_IS = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_ADOBE, _FIRST_APPLICATION, _LAST_APPLICATION, _JFIF, _SCAN = 0xEE, 0xE0, 0xEF, 0xE0, 0xDA
# Red, green and blue that are read as luma and chroma leave the range of colours; luma and chroma never do by so much.
_OUT_OF_RANGE, _OUTSIDE = 24, 0.02
# Most of an X-ray is grey, so its chroma is near 128; its green and blue are as different as its red.
_GREY = 8


def decode_grey(data: bytes, size: tuple[int, int], what: str = "JPEG") -> Pixels:
    """Decode luma (H, W) at the smallest scale of libjpeg that has at least `size`, width and height."""
    return _decode(data, "GRAY", size, what)[..., 0]


def decode_rgb(data: bytes, size: tuple[int, int], what: str = "JPEG") -> Pixels:
    """Decode red, green and blue (H, W, 3), as `decode_grey` does."""
    return _decode(data, "RGB", size, what)


def check(data: bytes, size: tuple[int, int], *, cmyk: bool) -> None:
    """Raise ImageRefused if the stream is damaged, after a decode at the smallest scale."""
    _decode(data, "CMYK" if cmyk else "GRAY", (-(-size[0] // 8), -(-size[1] // 8)), "JPEG")


def _decode(data: bytes, colours: str, size: tuple[int, int], what: str) -> Pixels:
    def decode(*, strict: bool) -> Pixels:
        return simplejpeg.decode_jpeg(data, colours, min_width=size[0], min_height=size[1], strict=strict)

    try:
        return decode(strict=True)
    except ValueError as exc:
        if any(damage in str(exc) for damage in _DAMAGE):
            raise ImageRefused("corrupt", f"The {what}'s data is damaged.") from exc
    try:
        return decode(strict=False)
    except ValueError as exc:
        raise ImageRefused("corrupt", f"The {what}'s pixels cannot be decoded.") from exc


def decode_components(data: bytes, size: tuple[int, int], what: str) -> Pixels:
    """Decode the three components as they are stored, whatever colours they are."""
    return _decode(without_colour_transform(data), "RGB", size, what)


def without_colour_transform(data: bytes) -> bytes:
    """Return the stream with markers that make decoders take its components as red, green and blue."""
    parts, position = [b"\xff\xd8", _STORED_AS_IS], 2
    for marker, start, end in segments(data):
        position = end
        if not _FIRST_APPLICATION <= marker <= _LAST_APPLICATION:
            parts.append(data[start:end])
    return b"".join((*parts, data[position:]))


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """Return marker, start and end of the segments before the first scan's; damaged ones end the list."""
    result: list[tuple[int, int, int]] = []
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF:
            position += 1
            continue
        if marker == _SCAN or marker in range(0xD0, 0xDA) or length < 2:
            break
        result.append((marker, position, position + 2 + length))
        position += 2 + length
    return result


def to_rgb(components: Pixels, data: bytes, *, is_luma: bool) -> Pixels:
    """Convert components as stored to red, green and blue.

    The markers of the stream and the header of the file (`is_luma`) contradict each other in many files, and both may
    be wrong. So the pixels decide, and the others only where pixels could be either.
    """
    marked = _marked_as_luma(data)
    decided = _looks_like_luma(components)
    if decided is None:
        decided = is_luma if marked is None else marked
    return luma_to_rgb(components) if decided else components


def luma_to_rgb(components: Pixels) -> Pixels:
    """Convert luma and chroma (H, W, 3) to red, green and blue."""
    height, width = components.shape[:2]
    image = Image.frombytes("YCbCr", (width, height), np.ascontiguousarray(components).tobytes())
    return np.asarray(image.convert("RGB"))


def _marked_as_luma(data: bytes) -> bool | None:
    """Whether markers say that components are luma and chroma; None if they do not say."""
    has_jfif, ids = False, b""
    for marker, start, end in segments(data):
        body = data[start + 4 : end]
        if marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            return body[11] != 0
        has_jfif |= marker == _JFIF and body.startswith(b"JFIF\0")
        if 0xC0 <= marker <= 0xC3 and len(body) >= 15:
            if body[7] != 0x11:
                return True  # only chroma is subsampled
            ids = body[6::3][:3]
    return True if has_jfif else False if ids == b"RGB" else None


def _looks_like_luma(components: Pixels) -> bool | None:
    """Whether the pixels must be luma and chroma (True), or cannot be (False), from a sample; None if both can be."""
    step = max(1, min(components.shape[:2]) // 64)
    luma, blue, red = np.moveaxis(components[::step, ::step].astype(np.float32), 2, 0)
    blue, red = blue - 128, red - 128
    channels = np.stack([luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue])
    outside = (channels < -_OUT_OF_RANGE) | (channels > 255 + _OUT_OF_RANGE)
    if outside.any(axis=0).mean() > _OUTSIDE:
        return False
    is_grey = np.maximum(abs(blue), abs(red)) < _GREY
    return True if is_grey.mean() > 0.5 and luma[is_grey].std() > 2 * _GREY else None
