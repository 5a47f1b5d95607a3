"""Walk through the elements of a DICOM data set, with bounded work whatever their lengths claim.

Source: DICOM PS3.5 section 7 (data elements, sequences, items) and 6.2 (value representations).
"""

import struct
from dataclasses import dataclass, field

from lungline.errors import ImageRefused

PIXEL_DATA = 0x7FE00010
_OTHER_PIXELS = (0x7FE00008, 0x7FE00009)
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT_VRS = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"),
    *(b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}
# An X-ray has about 200 elements; a file of empty elements would only waste time.
_MOST_ELEMENTS = 10_000
_MOST_DEPTH = 50
_LONGEST_VALUE = 300_000  # the largest table of grey levels has 65,536 entries of two bytes


@dataclass(slots=True)
class Elements:
    """Values and short explicit VRs by tag, and the first byte and end of the pixels."""

    values: dict[int, bytes]
    pixels: tuple[int, int] | None = None
    encapsulated: bool = False
    vrs: dict[int, bytes] = field(default_factory=dict[int, bytes])


class Walk:
    """Walks through elements, and counts its steps. Its methods raise ImageRefused (truncated, corrupt)."""

    def __init__(self, data: bytes, order: str, explicit: bool) -> None:
        self.data, self.order, self.explicit = data, order, explicit
        self.steps = 0

    def collect(self, start: int, needed: frozenset[int] | None) -> Elements:
        """Collect the needed elements (all if None) from `start` up to the pixels or the end of the data."""
        elements = Elements({})
        while start + 8 <= len(self.data):
            tag, value, length = self.header(start)
            if tag in _OTHER_PIXELS:
                raise ImageRefused("unsupported-format", "The DICOM's pixels are not whole numbers.")
            if tag == PIXEL_DATA:
                elements.vrs[tag] = self.data[start + 4 : start + 6]
                elements.encapsulated = length == UNDEFINED
                elements.pixels = value, len(self.data) if elements.encapsulated else value + length
                return elements
            if tag in (ITEM_END, SEQUENCE_END):
                return elements
            vr = self.data[start + 4 : start + 6]
            start = self.after(tag, value, length)
            if start > len(self.data):
                raise ImageRefused("truncated", "The DICOM ends before its pixels do.")
            if (needed is None or tag in needed) and start - value <= _LONGEST_VALUE:
                elements.values.setdefault(tag, self.data[value:start])
                if self.explicit and vr in SHORT_VRS:
                    elements.vrs.setdefault(tag, vr)
        return elements

    def header(self, start: int) -> tuple[int, int, int]:
        """Return the tag of the element at `start`, and the start and length of its value."""
        self.steps += 1
        if self.steps > _MOST_ELEMENTS:
            raise ImageRefused("corrupt", f"The DICOM has more than {_MOST_ELEMENTS} elements before its pixels.")
        tag, length = self.item(start)
        vr = self.data[start + 4 : start + 6]
        if tag >> 16 == 0xFFFE or not self.explicit:
            return tag, start + 8, length
        if vr in LONG_VRS:
            if start + 12 > len(self.data):
                raise ImageRefused("truncated", "The DICOM ends inside its header.")
            return tag, start + 12, int(struct.unpack_from(self.order + "I", self.data, start + 8)[0])
        if vr in SHORT_VRS:
            return tag, start + 8, int(struct.unpack_from(self.order + "H", self.data, start + 6)[0])
        return tag, start + 8, length  # some writers mix explicit and implicit VR

    def item(self, start: int) -> tuple[int, int]:
        """Return the tag and length of an item, or of an element with implicit VR."""
        if start + 8 > len(self.data):
            raise ImageRefused("truncated", "The DICOM ends inside its header.")
        group, element, length = struct.unpack_from(self.order + "HHI", self.data, start)
        return group << 16 | element, length

    def after(self, tag: int, value: int, length: int) -> int:
        """Return where an element ends; a sequence or item of undefined length is walked through."""
        if length != UNDEFINED:
            return value + length
        # A sequence of VR UN holds implicit elements, whatever the encoding around it (PS3.5 6.2.2).
        inner = Walk(self.data, self.order, self.explicit)
        inner.explicit = self.explicit and self.data[value - 8 : value - 6] != b"UN"
        inner.steps = self.steps
        end = inner.skip(value, SEQUENCE_END if tag != ITEM else ITEM_END)
        self.steps = inner.steps
        return end

    def skip(self, start: int, closing: int) -> int:
        """Return the end of a sequence or item of undefined length: after the delimiter that closes it."""
        open_ends = [closing]
        while open_ends:
            tag, value, length = self.header(start)
            if tag in (ITEM_END, SEQUENCE_END):
                if tag != open_ends.pop():
                    raise ImageRefused("corrupt", "A sequence in the DICOM is not closed.")
                start = value
            elif length == UNDEFINED:
                open_ends.append(ITEM_END if tag == ITEM else SEQUENCE_END)
                start = value
            else:
                start = value + length
            if len(open_ends) > _MOST_DEPTH:
                raise ImageRefused("corrupt", f"Sequences in the DICOM are more than {_MOST_DEPTH} deep.")
        return start
