"""Read the headers of JPEG and PNG files, and rebuild the files with nothing but their pixels.

A hostile or broken header is refused here, and Pillow never sees metadata: no text bombs, no animation, no broken EXIF
block, and so none of its warnings about them. Only the EXIF orientation is read, because it turns the image.

Sources: ITU-T T.81 annex B (JPEG), W3C PNG third edition, CIPA DC-008 (EXIF).
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lungline.errors import ImageRefused
from lungline.imaging.image import CheckSize

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_PROGRESSIVE_FRAMES = {0xC2, 0xCA}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
# Whatever version a file names, which libjpeg would warn about.
_PLAIN_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_JPEG_LS_FRAME = 0xF7
_JFIF, _EXIF, _ADOBE, _END_OF_IMAGE, _START_OF_SCAN = 0xE0, 0xE1, 0xEE, 0xD9, 0xDA
# Progressive JPEGs have about ten scans. Each scan passes over all coefficients, so thousands are an attack.
_MOST_SCANS = 100
_MOST_WORK = 640_000_000  # scans times pixels
# PNG writers put at least 4 KB into a chunk; a file of empty chunks would only waste time.
_MOST_CHUNKS = 100_000
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


@dataclass(frozen=True, slots=True)
class Container:
    """An image file reduced to what decoding its pixels needs.

    `width` and `height` are as stored, before `orientation` (EXIF 1 to 8) is applied. If `rgb`, a JPEG with three
    components stores red, green and blue instead of luma and chroma. If `inverted`, white is 0.
    `progressive` if a JPEG has all its coefficients in memory while it is decoded.
    `warnings` are about what the file has besides this image.
    """

    format: str
    width: int
    height: int
    orientation: int
    components: int
    rgb: bool
    data: bytes
    inverted: bool = False
    progressive: bool = False
    warnings: tuple[str, ...] = ()


def read_jpeg(data: bytes, check_size: CheckSize) -> Container:
    """Read a JPEG file; raises ImageRefused (truncated, corrupt, unsupported-format)."""
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    view = memoryview(data)  # a slice of it is no copy
    frame = exif = adobe = b""
    progressive = False
    for marker, start, end in _jpeg_header(data):
        segment = data[start + 4 : end]
        if marker in _DECODABLE_FRAMES and not frame:
            frame, progressive = segment, marker in _PROGRESSIVE_FRAMES
            check_size(*_frame_size(frame))
        elif marker == _EXIF and segment.startswith(b"Exif\0\0") and not exif:
            exif = segment[6:]
        elif marker == _ADOBE:
            adobe = segment
        # JFIF and Adobe segments determine the colour space; other metadata is dropped.
        if marker == _JFIF and segment.startswith(b"JFIF\0"):
            kept.append(_PLAIN_JFIF)
        elif not 0xE0 <= marker <= 0xEF or marker == _ADOBE:
            kept.append(view[start:end])
        if marker == _START_OF_SCAN:
            _check_scans(data, end, frame)
            kept.append(view[end:])
    if not frame:
        raise ImageRefused("corrupt", "The JPEG has no frame header, which would hold its size.")
    width, height = _frame_size(frame)
    turn, is_rgb = orientation(exif), _is_rgb(frame, adobe)
    return Container("jpeg", width, height, turn, frame[5], is_rgb, b"".join(kept), progressive=progressive)


def _jpeg_header(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to and including the first scan's header."""
    position = 2
    marker = 0
    while marker != _START_OF_SCAN:
        marker, start = _next_marker(data, position)
        position = start + 2
        if marker in _STANDALONE:
            continue
        if marker == _END_OF_IMAGE:
            raise ImageRefused("corrupt", "The JPEG ends before its first pixel.")
        if marker == _JPEG_LS_FRAME:
            raise ImageRefused(
                "unsupported-format", "The file is JPEG-LS; expected a common JPEG, or JPEG-LS in DICOM."
            )
        if marker in _OTHER_FRAMES:
            raise ImageRefused("unsupported-format", "The JPEG is lossless or hierarchical; expected a common JPEG.")
        length = int.from_bytes(data[position : position + 2], "big")
        if position + max(length, 2) > len(data):
            raise ImageRefused("truncated", "The JPEG ends inside its header.")
        if length < 2:
            raise ImageRefused("corrupt", f"A JPEG segment has length {length}; expected at least 2.")
        position += length
        yield marker, start, position


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return the code and position of the next marker; other bytes are skipped, as decoders do."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise ImageRefused("truncated", "The JPEG ends inside its header.")
        if data[position + 1] not in (0x00, 0xFF):
            return data[position + 1], position
        position += 1


def _frame_size(frame: bytes) -> tuple[int, int]:
    """Return width and height from a frame header, after checking it."""
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise ImageRefused("corrupt", "The JPEG's frame header is too short.")
    if frame[0] != 8:
        raise ImageRefused("unsupported-format", f"The JPEG has {frame[0]} bits a sample; expected 8.")
    if frame[5] not in (1, 3, 4):
        raise ImageRefused("corrupt", f"The JPEG has {frame[5]} components; expected 1, 3 or 4.")
    height, width = struct.unpack(">HH", frame[1:5])
    return width, height


def _check_scans(data: bytes, position: int, frame: bytes) -> None:
    # Inside compressed data 0xFF is always followed by 0, so these pairs are markers.
    if data.find(b"\xff\xd9", position) < 0:
        raise ImageRefused("truncated", "The JPEG has no end marker: its last part is missing.")
    scans = 1 + data.count(b"\xff\xda", position)
    if scans > _MOST_SCANS:
        raise ImageRefused("corrupt", f"The JPEG has {scans} scans; expected at most {_MOST_SCANS}.")
    if frame and scans * math.prod(_frame_size(frame)) > _MOST_WORK:
        raise ImageRefused(
            "bomb", f"The JPEG has {scans} scans, each with so many pixels that decoding takes too long."
        )


def _is_rgb(frame: bytes, adobe: bytes) -> bool:
    if frame[5] != 3:
        return False
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return adobe[11] == 0
    return bytes(frame[6::3][:3]) == b"RGB"


def read_png(data: bytes, check_size: CheckSize) -> Container:
    """Read a PNG file; raises ImageRefused (truncated, corrupt)."""
    kept: list[bytes | memoryview] = [PNG_MAGIC]
    position, header, exif = len(PNG_MAGIC), b"", b""
    for _ in range(_MOST_CHUNKS):
        if position + 12 > len(data):
            raise ImageRefused("truncated", "The PNG has no end chunk: its last part is missing.")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if not header:
            header = _png_header(data[position + 8 : position + 8 + length], name)
            check_size(*struct.unpack(">II", header[:8]))
        if end > len(data):
            raise ImageRefused("truncated", "The PNG has no end chunk: its last part is missing.")
        if name in _PIXEL_CHUNKS:
            kept.append(_checked_chunk(data, position, end))
        elif name == b"eXIf":
            exif = data[position + 8 : end - 4]
        position = end
        if name == b"IEND":
            width, height = struct.unpack(">II", header[:8])
            return Container("png", width, height, orientation(exif), 0, False, b"".join(kept))
    raise ImageRefused("corrupt", f"The PNG has more than {_MOST_CHUNKS} chunks.")


def _png_header(body: bytes, name: bytes) -> bytes:
    if name != b"IHDR":
        raise ImageRefused("corrupt", "The PNG does not begin with its header chunk.")
    if len(body) != 13:
        # Either the chunk has a wrong length, or the file ends inside it.
        raise ImageRefused("truncated", "The PNG ends inside its header.")
    return body


def _checked_chunk(data: bytes, position: int, end: int) -> memoryview:
    if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
        name = data[position + 4 : position + 8].decode("ascii", "replace")
        raise ImageRefused("corrupt", f"The checksum of the PNG's {name} chunk is wrong.")
    return memoryview(data)[position:end]


def orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) in an EXIF block, or 1: broken metadata must not prevent a diagnosis."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
