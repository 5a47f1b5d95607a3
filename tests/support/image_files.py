"""Image files of all formats for tests: valid ones, and ones that claim more than they contain."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageDraw

from lungline.errors import ImageRefused
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits

ANY_SIZE = Limits(min_side=1)
ZEROS = zlib.compress(b"\0" * 100_000_000, 9)


def drawing(width: int = 96, height: int = 64) -> Image.Image:
    """A grey image without any symmetry."""
    image = Image.linear_gradient("L").resize((width, height))
    ImageDraw.Draw(image).ellipse((5, 8, width // 3, height // 2), fill=250)
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The image as a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def refusal_reason(data: bytes, limits: Limits = ANY_SIZE, at_least: int | None = None) -> str:
    """The reason why the decoder refuses the file."""
    with pytest.raises(ImageRefused) as refused:
        decode(data, limits, at_least=at_least)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return refused.value.reason


def exif(orientation: int) -> Image.Exif:
    """An EXIF block with an orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def opened(data: bytes) -> Image.Image:
    """The image as Pillow decodes it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, body: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of a compressed stream."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A small JPEG whose header states another size."""
    data = encoded(drawing(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def tiff_of(entries: dict[int, tuple[int, ...]], after: bytes = b"") -> bytes:
    """A TIFF of these values (of four bytes each), its directory first."""
    body, far = b"", 8 + 2 + 12 * len(entries) + 4
    values = b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        where = packed if len(numbers) == 1 else struct.pack("<I", far + len(values))
        values += b"" if len(numbers) == 1 else packed
        body += struct.pack("<HHI", tag, 4, len(numbers)) + where
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0\0\0\0" + values + after


def tiff_tiles(width: int, height: int, tile: int, body: bytes = b"") -> bytes:
    """A deflated TIFF whose tiles are all the same."""
    entries = {256: (width,), 257: (height,), 258: (8,), 259: (8,), 262: (1,), 277: (1,), 322: (tile,), 323: (tile,)}
    count = -(-width // tile) * -(-height // tile)
    start = 8 + 2 + 12 * 10 + 4 + (8 * count if count > 1 else 0)
    return tiff_of(entries | {324: (start,) * count, 325: (len(body),) * count}, body)


def tiff_strips(width: int, height: int, body: bytes, compression: int = 8) -> bytes:
    """A TIFF of a single strip."""
    entries = {256: (width,), 257: (height,), 258: (8,), 259: (compression,), 262: (1,), 277: (1,), 278: (height,)}
    return tiff_of(entries | {273: (8 + 2 + 12 * 9 + 4,), 279: (len(body),)}, body)


def webp_that_claims(width: int, height: int) -> bytes:
    """A small WebP whose header states another size."""
    data = encoded(drawing(), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    return data[:at] + (width - 1 | (height - 1) << 14 | 1 << 28).to_bytes(4, "little") + data[at + 4 :]
