"""Read the headers of BMP and WebP files, and rebuild the files with nothing but their pixels.

Sources: Microsoft's BITMAPINFOHEADER and its versions 4 and 5; RFC 9649 (WebP).
"""

import struct
from collections.abc import Iterator

from lungline.errors import ImageRefused
from lungline.imaging.image import CheckSize
from lungline.imaging.jpeg_png import Container, orientation

BMP_MAGIC = b"BM"

_CORE_HEADER = 12
_HEADERS = {40, 52, 56, 64, 108, 124}
_PLAIN, _BIT_FIELDS = 0, 3
# libwebp draws on canvases of four bytes a pixel, three of them at once.
_MOST_WEBP_PIXELS = 8_000_000
_ANIMATED, _ALPHA = 0x02, 0x10


def is_webp(data: bytes) -> bool:
    """Whether the content is WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def read_bmp(data: bytes, check_size: CheckSize) -> Container:
    """The container of a BMP file; raises ImageRefused (truncated, corrupt, unsupported-format)."""
    if len(data) < 26:
        raise ImageRefused("truncated", "The BMP ends inside its header.")
    start, header = struct.unpack_from("<II", data, 10)
    if header == _CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = _PLAIN
    elif header in _HEADERS:
        if len(data) < 14 + header:
            raise ImageRefused("truncated", "The BMP ends inside its header.")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise ImageRefused("corrupt", f"The BMP's header has {header} bytes, which no version of the format has.")
    width, height = abs(width), abs(height)
    check_size(width, height)
    if compression not in (_PLAIN, _BIT_FIELDS) or bits not in (1, 4, 8, 16, 24, 32):
        raise ImageRefused("unsupported-format", "The BMP is compressed, or has an unusual number of bits a pixel.")
    if start + (width * bits + 31) // 32 * 4 * height > len(data):
        raise ImageRefused("truncated", "The BMP ends before its pixels do.")
    return Container("bmp", width, height, 1, 0, False, data)


def read_webp(data: bytes, check_size: CheckSize) -> Container:
    """The container of a still WebP file; raises ImageRefused (truncated, corrupt, unsupported-format)."""
    alpha = exif = b""
    for name, body in _riff_chunks(data):
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and body[:1] and body[0] & _ANIMATED):
            raise ImageRefused("unsupported-format", "The WebP is animated; expected a still image.")
        if name == b"ALPH" and not alpha:
            alpha = body
        elif name == b"EXIF" and not exif:
            exif = body.removeprefix(b"Exif\0\0")
        elif name in (b"VP8 ", b"VP8L"):
            width, height = _webp_size(name, body)
            check_size(width, height)
            if width * height > _MOST_WEBP_PIXELS:
                raise ImageRefused(
                    "too-many-pixels",
                    f"The WebP has {width * height:,} pixels; at most {_MOST_WEBP_PIXELS:,} are allowed.",
                )
            exif = exif or next((late for tag, late in _riff_chunks(data) if tag == b"EXIF"), b"")
            turn = orientation(exif.removeprefix(b"Exif\0\0"))
            return Container("webp", width, height, turn, 0, False, _webp(name, body, alpha, width, height))
    raise ImageRefused("corrupt", "The WebP contains no image.")


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, end = 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) + len(data) % 2:
        raise ImageRefused("truncated", "The WebP ends before its pixels do.")
    for _ in range(1000):
        if position + 8 > end:
            return
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + length > len(data):
            raise ImageRefused("truncated", "The WebP ends inside a chunk.")
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    if name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ImageRefused("corrupt", "The WebP's frame header is broken.")


def _webp(name: bytes, body: bytes, alpha: bytes, width: int, height: int) -> bytes:
    parts = [(name, body)]
    if alpha and name == b"VP8 ":
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        parts = [(b"VP8X", bytes((_ALPHA, 0, 0, 0)) + size), (b"ALPH", alpha), *parts]
    chunks = b"".join(tag + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for tag, part in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
