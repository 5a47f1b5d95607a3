"""Read a DICOM header: the few elements that decoding needs, and where the pixels are.

This is not left to a general library for three reasons: the work is bounded whatever the file claims (elements,
nesting, deflated bytes); values that are not needed (patient names, dates, IDs) are never read, so no warning or
message can quote them; and the first DICOM file costs no import.

Sources: DICOM PS3.5 sections 7 and 10 (encoding), annex A (transfer syntaxes).
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lungline.errors import ImageRefused
from lungline.imaging.dicom_elements import ITEM, LONG_VRS, PIXEL_DATA, SHORT_VRS, UNDEFINED, Walk

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, EXPLICIT_BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

SYNTAX, MEDIA_CLASS = 0x00020010, 0x00020002
CHARACTER_SET = 0x00080005
# Descriptions in other character sets are read as UTF-8 or Latin 1.
_CODECS = {
    "ISO_IR 100": "latin-1",
    "ISO_IR 101": "iso8859-2",
    "ISO_IR 126": "iso8859-7",
    "ISO_IR 127": "iso8859-6",
    "ISO_IR 138": "iso8859-8",
    "ISO_IR 144": "iso8859-5",
    "ISO_IR 148": "iso8859-9",
    "ISO_IR 192": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO 2022 IR 58": "gb2312",
    "ISO 2022 IR 87": "iso2022_jp",
    "ISO 2022 IR 149": "euc_kr",
}
_META_GROUP = 0x0002
_LAST_GROUPS = {b"\xe0\x7f", b"\xfc\xff", b"\xfa\xff"}  # pixels, padding, digital signatures
# The header of a deflated file must fit in this many bytes.
_DEFLATED_HEADER = 2 * 2**20


@dataclass(frozen=True, slots=True)
class DicomFile:
    """The values of elements by tag, as bytes in `order` ("<" or ">"), and where the pixel data is.

    `vrs` are the explicit VRs by tag, where the file states them.
    If `encapsulated`, the pixels are in items, as compressed ones are. The value of a sequence is its items' bytes.
    """

    syntax: str
    order: str
    explicit: bool
    values: Mapping[int, bytes] = field(repr=False)
    data: bytes = field(repr=False)
    span: tuple[int, int] | None
    """First byte and end of the pixels in `data`; None if there are none."""
    encapsulated: bool
    has_preamble: bool
    vrs: Mapping[int, bytes] = field(default_factory=dict[int, bytes], repr=False)

    @property
    def pixels(self) -> bytes | None:
        """A copy of the pixel data, None if there is none."""
        return None if self.span is None else self.data[slice(*self.span)]

    def only(self, tags: frozenset[int]) -> "DicomFile":
        """The same file with these elements and its meta group alone: its reader can quote no other."""
        kept = {tag: value for tag, value in self.values.items() if tag in tags or tag >> 16 == _META_GROUP}
        return replace(self, values=kept, vrs={tag: vr for tag, vr in self.vrs.items() if tag in {PIXEL_DATA, *tags}})

    def text(self, tag: int) -> str:
        """Return the first value of a text element, or an empty string."""
        return self.values.get(tag, b"").decode("ascii", "replace").partition("\\")[0].strip(" \0")

    def words(self, tag: int) -> str:
        """Return a text element in its character set; what cannot be decoded is left out."""
        # Korean and Chinese have their escape sequences at the start, and then two bytes a character.
        value = self.values.get(tag, b"").replace(b"\x1b$)C", b"").replace(b"\x1b$)A", b"")
        declared = self.values.get(CHARACTER_SET, b"").decode("ascii", "replace").split("\\")
        codecs = [_CODECS[name.strip(" \0")] for name in reversed(declared) if name.strip(" \0") in _CODECS]
        for codec in (*codecs, "utf-8"):
            try:
                return value.decode(codec).strip(" \0")
            except UnicodeDecodeError:
                continue
        return value.decode("latin-1").strip(" \0")

    def decimals(self, tag: int) -> tuple[float, ...]:
        """Return numbers written as text, or nothing if any of them is not a number."""
        try:
            values = tuple(float(part) for part in self.values.get(tag, b"").decode("ascii", "replace").split("\\"))
        except ValueError:
            return ()
        return values if all(abs(value) < 1e15 for value in values) else ()

    def number(self, tag: int, default: int | None = None) -> int:
        """Return an unsigned 16-bit number. Raises ImageRefused if it is absent and there is no default."""
        value = self.values.get(tag, b"")
        if len(value) < 2:
            if default is None:
                name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
                raise ImageRefused("corrupt", f"The DICOM lacks element {name}, which its pixels need.")
            return default
        return int(struct.unpack_from(self.order + "H", value)[0])

    def decimal(self, tag: int) -> float | None:
        """Return a number written as text, or None if it is absent or not a number."""
        try:
            value = float(self.text(tag))
        except ValueError:
            return None
        return value if abs(value) < 1e15 else None

    def first_item(self, tag: int) -> "DicomFile | None":
        """Return the first item of a sequence, or None."""
        content = self.values.get(tag, b"")
        if len(content) < 8:
            return None
        walk = Walk(content, self.order, self.explicit)
        tag, length = walk.item(0)
        if tag != ITEM:
            return None
        end = len(content) if length == UNDEFINED else 8 + length
        elements = Walk(content[:end], self.order, self.explicit).collect(8, None)
        inherited = {CHARACTER_SET: self.values[CHARACTER_SET]} if CHARACTER_SET in self.values else {}
        values = inherited | elements.values
        return DicomFile(self.syntax, self.order, self.explicit, values, b"", None, False, True, elements.vrs)


def is_dicom(data: bytes) -> bool:
    """Return whether the content is DICOM, with or without the preamble."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 64:
        return False
    group, element = struct.unpack_from("<HH", data)
    if data[:4] == b"\0\x08\0\x05" or data[:4] == b"\0\x08\0\0" or data[:4] == b"\0\x08\0\x08":
        return data[4:6] in SHORT_VRS  # big endian
    if group not in (0x0002, 0x0008) or element > 0x0070:
        return False
    (length,) = struct.unpack_from("<I", data, 4)
    return data[4:6] in SHORT_VRS | LONG_VRS or length < 1024


def read_file(data: bytes, needed: frozenset[int]) -> DicomFile:
    """Read the needed elements of a DICOM file. Raises ImageRefused (truncated, corrupt, unsupported-format)."""
    preamble = data[128:132] == b"DICM"
    meta, start = _meta(data, 132 if preamble else 0)
    syntax = _syntax(meta)
    if syntax == DEFLATED:
        data, start = _inflated(data, start, _DEFLATED_HEADER), 0
    order, explicit = _encoding(data, start, syntax)
    elements = Walk(data, order, explicit).collect(start, needed)
    return DicomFile(
        syntax=syntax or (EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE),
        order=order,
        explicit=explicit,
        values=meta | elements.values,
        data=data,
        span=elements.pixels,
        encapsulated=elements.encapsulated,
        has_preamble=preamble,
        vrs=elements.vrs,
    )


def transfer_syntax(data: bytes) -> str:
    """The transfer syntax that the beginning of a file names; empty where it names none. Raises ImageRefused."""
    meta, _ = _meta(data, 132 if data[128:132] == b"DICM" else 0)
    return _syntax(meta)


def _syntax(meta: Mapping[int, bytes]) -> str:
    return meta.get(SYNTAX, b"").decode("ascii", "replace").strip(" \0")


def find_header(data: bytes, needed: frozenset[int]) -> DicomFile | None:
    """What `read_file` reads; None for other files, and for DICOM that cannot be read."""
    try:
        return read_file(data, needed) if is_dicom(data) else None
    except ImageRefused:
        return None


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """All elements before the pixels, without the file meta group, and their encoding."""

    data: bytes
    order: str
    explicit: bool


def read_header(data: bytes) -> DicomHeader:
    """Read the header of a file that `read_file` accepted; only the header of a deflated file is inflated."""
    meta, start = _meta(data, 132 if data[128:132] == b"DICM" else 0)
    syntax = _syntax(meta)
    if syntax == DEFLATED:
        data, start = _inflated(data, start, _DEFLATED_HEADER), 0
    order, explicit = _encoding(data, start, syntax)
    elements = Walk(data, order, explicit).collect(start, frozenset())
    # The header of the pixel data element precedes its value: 12 bytes with explicit VR, else 8.
    end = elements.pixels[0] - (12 if explicit else 8) if elements.pixels else len(data)
    return DicomHeader(data[start:end], order, explicit)


def inflate_pixels(data: bytes, needed: int) -> bytes:
    """Inflate the first `needed` bytes of the pixels of a deflated file that `read_file` accepted."""
    _, start = _meta(data, 132 if data[128:132] == b"DICM" else 0)
    header = _inflated(data, start, _DEFLATED_HEADER)
    elements = Walk(header, "<", explicit=True).collect(0, frozenset())
    first = elements.pixels[0] if elements.pixels else 0
    length = elements.pixels[1] - first if elements.pixels else 0
    length = min(max(length, needed), needed + _DEFLATED_HEADER)
    pixels = _inflated(data, start, first + length + 8)[first:]
    # There is no checksum. Damage shows by what comes after the pixels, which is nothing or another element.
    following = pixels[length:]
    if length < needed + _DEFLATED_HEADER and following.strip(b"\0") and following[:2] not in _LAST_GROUPS:
        raise ImageRefused("corrupt", "The DICOM's deflated part is damaged.")
    return pixels[:needed]


def _inflated(data: bytes, start: int, most: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(memoryview(data)[start:], most)
    except zlib.error as exc:
        raise ImageRefused("corrupt", "The DICOM's deflated part cannot be read.") from exc


def _meta(data: bytes, start: int) -> tuple[dict[int, bytes], int]:
    """Read the file meta group, which is always explicit little endian; also return where it ends."""
    walk, values = Walk(data, "<", explicit=True), dict[int, bytes]()
    for _ in range(100):
        if data[start : start + 2] != b"\x02\0":
            break
        tag, value, length = walk.header(start)
        if length > 65536 or value + length > len(data):
            raise ImageRefused("truncated", "The DICOM ends inside its header.")
        values[tag] = data[value : value + length]
        start = value + length
    return values, start


def _encoding(data: bytes, start: int, syntax: str) -> tuple[str, bool]:
    """Return the byte order, and whether the VR is explicit; the bytes win over the declared transfer syntax."""
    vr = data[start + 4 : start + 6]
    has_vr = vr in SHORT_VRS or vr in LONG_VRS
    if syntax == EXPLICIT_BIG or (not syntax and data[start : start + 2] == b"\0\x08"):
        return ">", True
    return "<", has_vr if syntax in ("", IMPLICIT_LITTLE, EXPLICIT_LITTLE) else True
