"""Read the directory of a TIFF file, and rebuild the file with a directory of nothing but its pixels.

Pillow sees one directory, written here from checked entries: no other pages, no metadata, no huge tiles, no strips
outside the file.

Source: TIFF revision 6.0.
"""

import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lungline.errors import ImageRefused
from lungline.imaging.image import CheckSize
from lungline.imaging.jpeg_png import Container

TIFF_MAGICS = (b"II*\0", b"MM\0*")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS_A_STRIP, _STRIP_SIZES, _PLANAR = 273, 274, 277, 278, 279, 284
_COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _KIND = 320, 322, 323, 324, 325, 339
_FILL_ORDER, _PREDICTOR, _EXTRA = 266, 317, 338
_NEEDED = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _ORIENTATION, _SAMPLES, _ROWS_A_STRIP),
    *(_STRIP_SIZES, _PLANAR, _COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _KIND),
    *(_FILL_ORDER, _PREDICTOR, _EXTRA),
}
_SUBFILE, _SUB_IMAGES = 254, 330
_SIZES = {_WIDTH, _HEIGHT, _SUBFILE, _SUB_IMAGES}
_SHORT, _LONG, _IFD = 3, 4, 13
_MASK = 4  # a bit of the subfile type
_NONE, _PACKBITS = 1, 32773
_COMPRESSIONS = {_NONE, 5, 8, 32946, _PACKBITS}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)
_MOST_ENTRIES = 1000
_MOST_PAGES = 100
_MOST_PIECES = 100_000
# Tiles are decoded whole, even if the image covers only a part of them.
_LARGEST_TILE = 1024


@dataclass(frozen=True, slots=True)
class _Directory:
    """Values by tag, and the raw entries that they were read from."""

    order: str
    values: Mapping[int, tuple[int, ...]]
    entries: Mapping[int, bytes]

    def first(self, tag: int, default: int | None = None) -> int:
        values = self.values.get(tag)
        if values:
            return values[0]
        if default is None:
            raise ImageRefused("corrupt", f"The TIFF does not hold tag {tag}.")
        return default


def read_tiff(data: bytes, check_size: CheckSize) -> Container:
    """Read the largest image of a TIFF file, the first of several; raises ImageRefused (truncated, corrupt, ...)."""
    order = "<" if data[:2] == b"II" else ">"
    pages = _read_pages(data, order)
    images = [page for page in pages if page.directory.first(_SUBFILE, 0) & _MASK == 0] or pages[:1]
    largest = max(images, key=_Page.area)
    same = sum(page.area() == largest.area() for page in images)
    directory, _ = _read_directory(data, order, largest.start, _NEEDED)
    width, height = directory.first(_WIDTH), directory.first(_HEIGHT)
    check_size(width, height)
    samples = _check_samples(directory)
    check_size(width, height * samples)
    _check_pieces(directory, width, height, samples, len(data))
    _check_data(data, directory, width, height, samples)
    orientation = directory.first(_ORIENTATION, 1)
    return Container(
        "tiff",
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        samples,
        False,
        _rewritten(data, directory),
        inverted=directory.first(_PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO,
        warnings=(f"first of {same} pages",) if same > 1 else (),
    )


@dataclass(frozen=True, slots=True)
class _Page:
    """Where a directory starts, and what it says about its image's size and about other images."""

    start: int
    directory: _Directory

    def area(self) -> int:
        return self.directory.first(_WIDTH, 0) * self.directory.first(_HEIGHT, 0)


def _read_pages(data: bytes, order: str) -> list[_Page]:
    """Read the sizes of all pages and of the images that belong to them, without those that cannot be read."""
    if len(data) < 8:
        raise ImageRefused("truncated", "The TIFF ends before its directory does.")
    pages, seen = list[_Page](), set[int]()
    waiting = [int(struct.unpack_from(order + "I", data, 4)[0])]
    while waiting and len(seen) < _MOST_PAGES:
        start = waiting.pop(0)
        if start in seen or (not start and pages):
            continue
        seen.add(start)
        try:
            directory, following = _read_directory(data, order, start, _SIZES, _MOST_PAGES)
        except ImageRefused:
            if not pages:
                raise
            continue
        pages.append(_Page(start, directory))
        waiting += [*directory.values.get(_SUB_IMAGES, ()), following]
    return pages


def _read_directory(
    data: bytes, order: str, start: int, tags: set[int], most: int | None = None
) -> tuple[_Directory, int]:
    """Read the tags of at most `most` values of the directory at `start`; also return where the next one is, or 0."""
    try:
        (count,) = struct.unpack_from(order + "H", data, start)
        if not 0 < count <= _MOST_ENTRIES:
            raise ImageRefused("corrupt", f"The TIFF's directory has {count} entries; expected 1 to {_MOST_ENTRIES}.")
        values: dict[int, tuple[int, ...]] = {}
        entries: dict[int, bytes] = {}
        end = start + 2 + 12 * count
        for at in range(start + 2, end, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", data, at)
            if tag not in tags or tag in values or kind not in (_SHORT, _LONG, _IFD):
                continue
            if 0 < length <= (most or length):
                values[tag] = _values(data, at, order, kind, length)
                entries[tag] = data[at : at + 12]
    except struct.error as exc:
        raise ImageRefused("truncated", "The TIFF ends before its directory does.") from exc
    # Some writers leave out the offset of the next directory after the last one.
    following = int(struct.unpack_from(order + "I", data, end)[0]) if end + 4 <= len(data) else 0
    return _Directory(order, values, entries), following


def _values(data: bytes, at: int, order: str, kind: int, length: int) -> tuple[int, ...]:
    code, size = ("H", 2) if kind == _SHORT else ("I", 4)
    if length > _MOST_PIECES:
        raise ImageRefused("corrupt", f"A TIFF entry has {length} values; expected at most {_MOST_PIECES}.")
    start = at + 8 if length * size <= 4 else int(struct.unpack_from(order + "I", data, at + 8)[0])
    return struct.unpack_from(f"{order}{length}{code}", data, start)


def _check_samples(directory: _Directory) -> int:
    """Return the number of samples per pixel; raises for sample formats that are not supported."""
    samples = directory.first(_SAMPLES, 1)
    bits = set(directory.values.get(_BITS, (1,)))
    photometric, kinds = directory.first(_PHOTOMETRIC, _BLACK_IS_ZERO), set(directory.values.get(_KIND, (1,)))
    if directory.first(_COMPRESSION, _NONE) not in _COMPRESSIONS:
        raise ImageRefused("unsupported-format", "The TIFF's compression is not LZW, Deflate or PackBits.")
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE) or kinds - {1, 2, 4}:
        raise ImageRefused("unsupported-format", "The TIFF's pixels are neither integer grey levels nor colours.")
    ways = (directory.first(_PLANAR, 1), directory.first(_PREDICTOR, 1), directory.first(_FILL_ORDER, 1))
    if any(way not in (1, 2) for way in ways):
        raise ImageRefused("corrupt", "The TIFF's pixels have a layout that TIFF does not define.")
    least = 3 if photometric == _RGB else 1
    if len(bits) != 1 or bits - {1, 2, 4, 8, 16} or not least <= samples <= least + 1:
        raise ImageRefused(
            "unsupported-format", f"The TIFF has {samples} samples a pixel in a format that is not supported."
        )
    if photometric == _PALETTE and len(directory.values.get(_COLOURS, ())) != 3 << max(bits):
        raise ImageRefused("corrupt", "The TIFF has no palette for its colours.")
    return samples


def _check_pieces(directory: _Directory, width: int, height: int, samples: int, size: int) -> None:
    """Raise unless strips or tiles cover the image and lie inside the file."""
    across, rows = width, min(height, directory.first(_ROWS_A_STRIP, height))
    offsets, sizes = directory.values.get(_STRIPS, ()), directory.values.get(_STRIP_SIZES, ())
    if _TILES in directory.values:
        across, rows = directory.first(_TILE_WIDTH), directory.first(_TILE_HEIGHT)
        offsets, sizes = directory.values[_TILES], directory.values.get(_TILE_SIZES, ())
        if max(across, rows) > _LARGEST_TILE:
            raise ImageRefused("bomb", f"The TIFF's tiles are {across} x {rows}; expected at most {_LARGEST_TILE}.")
    if not across or not rows:
        raise ImageRefused("corrupt", "The TIFF's strips or tiles are empty.")
    planes = samples if directory.first(_PLANAR, 1) == 2 else 1
    expected = math.ceil(width / across) * math.ceil(height / rows) * planes
    if len(offsets) != expected or len(sizes) != expected:
        raise ImageRefused("corrupt", f"The TIFF has {len(offsets)} strips or tiles; expected {expected}.")
    if any(offset + length > size for offset, length in zip(offsets, sizes, strict=True)):
        raise ImageRefused("truncated", "The TIFF ends before its pixels do.")
    needed = math.ceil(across * directory.first(_BITS, 1) * (samples // planes) / 8) * rows
    if directory.first(_COMPRESSION, _NONE) == _NONE and any(length < needed for length in sizes[:-1]):
        raise ImageRefused("truncated", "The TIFF's strips or tiles hold fewer bytes than their pixels need.")


def _check_data(data: bytes, directory: _Directory, width: int, height: int, samples: int) -> None:
    """Raise unless each strip or tile decompresses to as many bytes as its pixels need; libtiff accepts others."""
    decompress = _DECOMPRESSORS.get(directory.first(_COMPRESSION, _NONE))
    if decompress is None or directory.first(_FILL_ORDER, 1) == 2:
        return
    across, rows = width, min(height, directory.first(_ROWS_A_STRIP, height))
    offsets, sizes = directory.values.get(_STRIPS, ()), directory.values.get(_STRIP_SIZES, ())
    is_tiled = _TILES in directory.values
    if is_tiled:
        across, rows = directory.first(_TILE_WIDTH), directory.first(_TILE_HEIGHT)
        offsets, sizes = directory.values[_TILES], directory.values[_TILE_SIZES]
    planes = samples if directory.first(_PLANAR, 1) == 2 else 1
    row = math.ceil(across * directory.first(_BITS, 1) * (samples // planes) / 8)
    strips = len(offsets) // planes
    for number, (offset, length) in enumerate(zip(offsets, sizes, strict=True)):
        is_last = not is_tiled and number % strips == strips - 1
        least = (height - (strips - 1) * rows if is_last else rows) * row
        if not least <= decompress(data[offset : offset + length], rows * row) <= rows * row:
            raise ImageRefused("corrupt", "The TIFF's data is damaged.")


def _inflated_size(data: bytes, most: int) -> int:
    """Return the size of a zlib stream whose checksum is right, -1 if it is not, or if it is larger than `most`."""
    stream = zlib.decompressobj()
    try:
        size = len(stream.decompress(data, most + 1))
    except zlib.error:
        return -1
    return size if stream.eof else -1


def _imagecodecs_size(name: str) -> Callable[[bytes, int], int]:
    def size(data: bytes, most: int) -> int:
        import imagecodecs

        try:
            return len(getattr(imagecodecs, name)(data, out=most + 1))
        except Exception:  # noqa: BLE001 - the codecs' exceptions have no common base
            return -1

    return size


_DECOMPRESSORS: dict[int, Callable[[bytes, int], int]] = {
    5: _imagecodecs_size("lzw_decode"),
    8: _inflated_size,
    32946: _inflated_size,
    _PACKBITS: _imagecodecs_size("packbits_decode"),
}


def _rewritten(data: bytes, directory: _Directory) -> bytes:
    """Append a directory of only the entries that decoding needs, with black as zero."""
    order = directory.order
    entries = dict(directory.entries)
    entries.pop(_ORIENTATION, None)
    if directory.first(_PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO:
        entries[_PHOTOMETRIC] = struct.pack(order + "HHIHH", _PHOTOMETRIC, _SHORT, 1, _BLACK_IS_ZERO, 0)
    start = len(data) + len(data) % 2
    head = data[:4] + struct.pack(order + "I", start)
    body = b"".join(entries[tag] for tag in sorted(entries))
    padding = b"\0" * (len(data) % 2)
    return b"".join((head, memoryview(data)[8:], padding, struct.pack(order + "H", len(entries)), body, b"\0\0\0\0"))
