"""The frames of compressed DICOM pixels, which are in fragments (DICOM PS3.5 annex A.4)."""

import struct
from collections.abc import Iterator

from lungline.errors import ImageRefused
from lungline.imaging.dicom_elements import ITEM, SEQUENCE_END, UNDEFINED, Walk


def first_frame(pixels: bytes, order: str, frames: int) -> bytes:
    """Return the compressed bytes of the first of `frames` frames. Raises ImageRefused (truncated, corrupt)."""
    fragments = list(_fragments(pixels, order))
    if len(fragments) < 2:
        raise ImageRefused("truncated", "The DICOM's pixels end before their first byte.")
    table, *fragments = fragments
    if frames <= 1:
        return b"".join(fragments)
    if len(table) >= 8:
        (end,) = struct.unpack_from(order + "I", table, 4)
        frame, position = list[bytes](), 0
        for fragment in fragments:
            if position >= end:
                break
            frame.append(fragment)
            position += 8 + len(fragment)
        return b"".join(frame)
    if len(fragments) == frames:
        return fragments[0]
    # Without an offset table, only the end marker of the stream shows where the first frame ends.
    last = next((at for at, fragment in enumerate(fragments) if b"\xff\xd9" in fragment[-4:]), 0)
    return b"".join(fragments[: last + 1])


def _fragments(pixels: bytes, order: str) -> Iterator[bytes]:
    walk, start = Walk(pixels, order, explicit=False), 0
    while start + 8 <= len(pixels):
        tag, value, length = walk.header(start)
        if tag == SEQUENCE_END:
            return
        if tag != ITEM or length == UNDEFINED:
            raise ImageRefused("corrupt", "The DICOM's compressed pixels are not in items.")
        if value + length > len(pixels):
            raise ImageRefused("truncated", "The DICOM ends before its pixels do.")
        yield pixels[value : value + length]
        start = value + length
