"""Decode a large PNG strip by strip, so that it never lies in memory whole but as grey pixels.

A strip is a small PNG of the filtered rows as they are stored, below the row before them, from which libpng takes the
filters away. The small PNG has as many bytes a pixel as the large one, because filters work on those.

Source: W3C PNG third edition, 9 (filtering) and 11.2 (chunks).
"""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lungline.errors import ImageRefused
from lungline.imaging.grey import Grey, band_rows, grey_of, grey_of_bands, spread
from lungline.imaging.jpeg_png import PNG_MAGIC, Container

_CHUNK = 1 << 16
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Depth and colour type of an image with so many bytes a pixel.
_CARRIERS = {1: (8, 0), 2: (8, 4), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}


def decode_png(container: Container) -> Grey:
    """Decode a PNG that was read by `read_png`."""
    image = PngImageFile(io.BytesIO(container.data))
    interlaced = container.data[len(PNG_MAGIC) + 8 + 12]
    if interlaced or band_rows(image.size) >= image.height:
        return grey_of(image)
    strips = _strips(container.data, image)
    if not image.mode.startswith("I"):
        return grey_of_bands(strips, image.size)
    pixels, row = np.empty((image.height, image.width), np.uint16), 0
    for strip in strips:
        pixels[row : row + strip.height] = np.asarray(strip)
        row += strip.height
    return spread(pixels)


def _strips(data: bytes, whole: PngImageFile) -> Iterator[Image.Image]:
    depth, colour = data[len(PNG_MAGIC) + 16], data[len(PNG_MAGIC) + 17]
    bits = depth * _SAMPLES[colour]
    pixel, row = max(1, bits // 8), -(-whole.width * bits // 8)
    rows, raw_mode = band_rows(whole.size), str(whole.tile[0].args)
    above, filtered = bytes(row), _inflated(data)
    for top in range(0, whole.height, rows):
        count = min(rows, whole.height - top)
        raw = _unfiltered(above, _read(filtered, count * (row + 1)), row, pixel)
        above = raw[-row:]
        strip = Image.frombytes(whole.mode, (whole.width, count), raw, "raw", raw_mode)
        if whole.palette:
            strip.putpalette(whole.palette.palette, whole.palette.rawmode or "RGB")
        strip.info = whole.info
        yield strip


def _inflated(data: bytes) -> "_Stream":
    return _Stream(_pixel_chunks(data))


def _pixel_chunks(data: bytes) -> Iterator[memoryview]:
    view, position = memoryview(data), len(PNG_MAGIC)
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IDAT":
            for start in range(position + 8, position + 8 + length, _CHUNK):
                yield view[start : min(start + _CHUNK, position + 8 + length)]
        position += 12 + length


class _Stream:
    """The inflated bytes of compressed chunks, never many more at once than are read."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._zlib = zlib.decompressobj()

    def read(self, most: int) -> bytes:
        """At most so many bytes, and none only at the end."""
        while not self._zlib.eof:
            waiting = self._zlib.unconsumed_tail or next(self._chunks, None)
            if waiting is None:
                return b""
            if data := self._zlib.decompress(waiting, most):
                return data
        return b""


def _read(stream: _Stream, size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    while left:
        try:
            part = stream.read(left)
        except zlib.error as exc:
            raise ImageRefused("corrupt", "The PNG's pixels cannot be decoded.") from exc
        if not part:
            raise ImageRefused("truncated", "The PNG's pixels end early: its last part is missing.")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _unfiltered(above: bytes, filtered: bytes, row: int, pixel: int) -> bytes:
    """The bytes of rows as they were before filtering."""
    import imagecodecs

    depth, colour = _CARRIERS[pixel]
    header = struct.pack(">IIBBBBB", row // pixel, len(filtered) // (row + 1) + 1, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + above + filtered, 0)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    rows = imagecodecs.png_decode(PNG_MAGIC + body)[1:]
    return (rows.byteswap() if rows.itemsize == 2 else rows).tobytes()
