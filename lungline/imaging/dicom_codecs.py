"""Decode the compressed pixels of a DICOM file, after checking their size against the file's header.

The size is checked first because it decides how much a decoder allocates. The decoders are libjpeg-turbo, CharLS and
OpenJPEG from `imagecodecs`: permissively licensed, and fuzzed by their maintainers, unlike the other plugins.

Sources: ITU-T T.81 (JPEG), T.87 (JPEG-LS), T.800 (JPEG 2000); DICOM PS3.5 annex G (RLE).
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.imaging import jpeg

Values = npt.NDArray[np.integer]
Pixels = npt.NDArray[np.uint8]

RLE = "1.2.840.10008.1.2.5"
JPEG = {f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70)}
JPEG_LS = {f"1.2.840.10008.1.2.4.{last}" for last in (80, 81)}
JPEG_2000 = {f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 201, 202, 203)}
COMPRESSED = {RLE} | JPEG | JPEG_LS | JPEG_2000

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_EIGHT_BIT_FRAMES, _LOSSLESS_FRAME, _JPEG_LS_FRAME = {0xC0, 0xC1, 0xC2}, 0xC3, 0xF7
_WHAT = "DICOM's JPEG"
_SCAN, _END = 0xDA, b"\xff\xd9"
_MOST_SCANS = 100
_MOST_WORK = 640_000_000  # scans times pixels
# OpenJPEG allocates 6 KB a tile and 200 bytes a code block, even for those that are missing from the stream.
_MOST_TILES = 1024
_SMALLEST_BLOCK = 8  # as the sum of both exponents: 16 x 16
_SMALLEST_PRECINCT = 5  # exponent: 32
_TILE_START = 0xFF90


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a frame as the DICOM header states it; `bits` is the number allocated to a sample, 8 or 16."""

    width: int
    height: int
    samples: int
    bits: int


def values(syntax: str, data: bytes, shape: Shape, *, is_luma: bool = False) -> Values:
    """Decode a frame to (H, W), or (H, W, 3) in red, green and blue. Raises ImageRefused (corrupt, truncated, bomb).

    `is_luma` if the header says that a colour image is stored as luma and chroma.
    """
    decode = _rle if syntax == RLE else _jpeg_2000 if syntax in JPEG_2000 else _jpeg
    try:
        decoded = decode(data, shape)
        if shape.samples == 3 and decoded.ndim == 3 and decoded.itemsize == 1:
            decoded = _to_rgb(syntax, decoded.view(np.uint8), data, is_luma=is_luma)
    except (ImageRefused, MemoryError):
        raise
    except Exception as exc:  # the codecs' exceptions have no common base
        raise ImageRefused("corrupt", "The DICOM's compressed pixels cannot be decoded.") from exc
    expected = (shape.height, shape.width) + ((shape.samples,) if shape.samples > 1 else ())
    if decoded.shape != expected or decoded.dtype.itemsize * 8 > shape.bits:
        raise ImageRefused("corrupt", "The DICOM's compressed pixels are not those that its header announces.")
    return decoded


def _to_rgb(syntax: str, components: Pixels, data: bytes, *, is_luma: bool) -> Pixels:
    if syntax in JPEG:
        return jpeg.to_rgb(components, data, is_luma=is_luma)
    return jpeg.luma_to_rgb(components) if is_luma else components


def _jpeg(data: bytes, shape: Shape) -> Values:
    import imagecodecs

    frame = _checked_frame(data, shape)
    size = shape.width, shape.height
    if frame.marker == _JPEG_LS_FRAME:
        return imagecodecs.jpegls_decode(data)
    if frame.marker in _EIGHT_BIT_FRAMES and frame.body[0] == 8:
        if shape.samples == 3:
            return jpeg.decode_components(data, size, _WHAT)
        return jpeg.decode_grey(jpeg.without_colour_transform(data), size, _WHAT)
    if frame.marker == _LOSSLESS_FRAME and shape.samples == 1:
        from lungline.imaging.lossless_jpeg import is_damaged

        if is_damaged(data, shape.width * shape.height):
            raise ImageRefused("corrupt", f"The {_WHAT}'s data is damaged.")
    return imagecodecs.jpeg8_decode(jpeg.without_colour_transform(data) if shape.samples == 3 else data)


def _checked_frame(data: bytes, shape: Shape) -> "_Segment":
    frame = _jpeg_frame(data)
    precision, height, width, samples = struct.unpack(">BHHB", frame.body[:6])
    _compare(shape, (width, height, samples, 16 if precision > 8 else 8))
    if _END not in data[-64:]:
        raise ImageRefused("truncated", "The DICOM's compressed pixels end early.")
    scans = data.count(b"\xff\xda")
    if scans > _MOST_SCANS or scans * width * height > _MOST_WORK:
        raise ImageRefused("bomb", "The DICOM's compressed pixels have more scans than any image.")
    return frame


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    body: bytes


def _jpeg_frame(data: bytes) -> _Segment:
    """Find the frame header of a JPEG or JPEG-LS stream."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 4 <= len(data):
        start = data.find(b"\xff", position)
        if start < 0 or start + 4 > len(data):
            break
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (0x00, 0xFF):
            position = start + 1
            continue
        if marker in _FRAMES and length >= 8:
            return _Segment(marker, data[start + 4 : start + 2 + length])
        if marker == _SCAN:
            break
        position = start + 2 + (0 if 0xD0 <= marker <= 0xD8 else max(2, length))
    raise ImageRefused("corrupt", "The DICOM's compressed pixels have no frame header.")


def _jpeg_2000(data: bytes, shape: Shape) -> Values:
    import imagecodecs

    # Some writers wrap the stream in the boxes of a JP2 file, which are not needed.
    start = data[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 44:
        raise ImageRefused("corrupt", "The DICOM's compressed pixels have no frame header.")
    stream = data[start:]
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", stream, 8)
    (samples,) = struct.unpack_from(">H", stream, 40)
    _compare(shape, (right - left, bottom - top, samples, 16 if (stream[42] & 0x7F) + 1 > 8 else 8))
    if not tile_width or not tile_height or -(-right // tile_width) * -(-bottom // tile_height) > _MOST_TILES:
        raise ImageRefused("bomb", f"The DICOM's JPEG 2000 stream has more than {_MOST_TILES} tiles.")
    _check_blocks(stream)
    return imagecodecs.jpeg2k_decode(stream, numthreads=1)


def _check_blocks(stream: bytes) -> None:
    """Raise if code blocks or precincts are so small that their number would exhaust the decoder."""
    position = 2
    while position + 4 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _TILE_START:
            return
        body = stream[position + 4 : position + 2 + length]
        start = {0xFF52: 5, 0xFF53: 2}.get(marker)  # COD and COC; levels, width, height, style, transform, precincts
        if start is not None and len(body) >= start + 3:
            small = any(min(size & 15, size >> 4) < _SMALLEST_PRECINCT for size in body[start + 5 : start + 5 + 33])
            if (body[start + 1] & 15) + (body[start + 2] & 15) + 4 < _SMALLEST_BLOCK or (body[0] & 1 and small):
                raise ImageRefused("bomb", "The DICOM's JPEG 2000 stream is divided into too many code blocks.")
        position += 2 + max(2, length)
    raise ImageRefused("truncated", "The DICOM's compressed pixels end inside their header.")


def _rle(data: bytes, shape: Shape) -> Values:
    import imagecodecs

    size = shape.width * shape.height
    planes = shape.samples * shape.bits // 8
    count, *offsets = struct.unpack_from("<16I", data)
    if count != planes:
        raise ImageRefused("corrupt", f"The DICOM's run lengths have {count} segments; expected {planes}.")
    ends = [*offsets[1:planes], len(data)]
    segments = np.zeros((planes, size), np.uint8)
    for plane, (start, end) in enumerate(zip(offsets[:planes], ends, strict=True)):
        # A padding byte after the last run makes a segment's length even; it may decode to an extra value.
        values = imagecodecs.packbits_decode(data[start:end], out=size + 2)
        if len(values) < size:
            raise ImageRefused("truncated", "The DICOM's run lengths end early.")
        if len(values) > size + 1:
            raise ImageRefused("corrupt", "The DICOM's run lengths hold more pixels than its header announces.")
        segments[plane] = np.frombuffer(values, np.uint8, size)
    # Segments hold the most significant byte of each sample first.
    joined = segments.reshape(shape.samples, shape.bits // 8, size).transpose(2, 0, 1)
    whole = np.ascontiguousarray(joined).view(">u2" if shape.bits == 16 else "u1")
    flat = whole.reshape(shape.height, shape.width, shape.samples).astype(np.uint16 if shape.bits == 16 else np.uint8)
    return flat[..., 0] if shape.samples == 1 else flat


def _compare(shape: Shape, stream: tuple[int, int, int, int]) -> None:
    width, height, samples, bits = stream
    if (width, height, samples) != (shape.width, shape.height, shape.samples) or bits > shape.bits:
        raise ImageRefused(
            "corrupt",
            f"The DICOM's header announces {shape.width} x {shape.height} pixels of {shape.samples} samples; "
            f"its compressed pixels hold {width} x {height} of {samples}.",
        )
