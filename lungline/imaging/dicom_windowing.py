"""Convert stored DICOM values to grey levels: modality transform, window, inversion.

All steps are combined in one table from stored value to grey level, so that a pixel costs one look-up.

Sources: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT).
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.imaging.contrast import Floats, spread_levels
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.image import Pixels

Patterns = npt.NDArray[np.unsignedinteger]
T = TypeVar("T", bound=np.generic)

PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
CENTRE, WIDTH, INTERCEPT, SLOPE, FUNCTION = 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056
MODALITY_TABLES, WINDOW_TABLES, SHAPE = 0x00283000, 0x00283010, 0x20500020
_TABLE_SHAPE, _TABLE = 0x00283002, 0x00283006
NEEDED = frozenset(
    (PADDING, PADDING_LIMIT, CENTRE, WIDTH, INTERCEPT, SLOPE, FUNCTION, MODALITY_TABLES, WINDOW_TABLES, SHAPE)
)

_BLOCK = 1_000_000  # pixels in one look-up, which needs eight bytes a pixel


@dataclass(frozen=True, slots=True)
class Stored:
    """How a sample is stored: bits allocated (8 or 16), bits in use, the highest of them, and whether it is signed."""

    allocated: int
    bits: int
    high: int
    signed: bool

    def domain(self) -> Floats:
        """Return the value of each bit pattern; bits that are not in use are ignored."""
        patterns = np.arange(1 << self.allocated, dtype=np.int64) >> (self.high + 1 - self.bits)
        patterns &= (1 << self.bits) - 1
        if self.signed:
            patterns -= (patterns >> (self.bits - 1)) << self.bits
        return patterns.astype(np.float64)


class Levels(NamedTuple):
    """Grey levels (H, W), bright is dense; warnings for the reader, and routine notes about the conversion."""

    pixels: Pixels
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def grey_levels(patterns: Patterns, stored: Stored, file: DicomFile, *, inverted: bool) -> Levels:
    """Convert bit patterns (H, W), uint8 or uint16, to grey levels; `inverted` if white is the lowest value."""
    domain = stored.domain()
    counts = _counts(patterns, len(domain))
    padding = padding_patterns(stored, file)
    present = (counts > 0) & ~padding
    if not present.any():
        present = counts > 0
    values = _modality(domain, stored, file)
    levels, note = _window(values, file)
    warnings = list[str]()
    if levels is not None and np.ptp(levels[present]) == 0:
        warnings.append(f"the {note.removesuffix(' applied')} shows nothing and was not used")
        levels = None
    if levels is None and stored.bits <= 8 and not note and _is_plain(file):
        levels = np.clip(values, 0, 255)
    elif levels is None:
        levels = spread_levels(values, np.where(present, counts, 0))
        note = "" if warnings else "no window: grey levels were spread"
    if inverted:
        levels = 255 - levels
    levels[padding] = 0
    notes = ["inverted: white is the lowest value"] * inverted + [note] * bool(note)
    notes += [f"{stored.bits} bit reduced to 8"] * (stored.bits > 8)
    return Levels(look_up(patterns, np.rint(levels).astype(np.uint8)), tuple(warnings), tuple(notes))


def is_inverted(photometric: str, file: DicomFile) -> bool:
    """Whether the lowest value is white. A presentation LUT shape, where there is one, wins over MONOCHROME1."""
    shape = file.text(SHAPE)
    return shape == "INVERSE" if shape in ("IDENTITY", "INVERSE") else photometric == "MONOCHROME1"


def _is_plain(file: DicomFile) -> bool:
    return file.decimal(SLOPE) in (None, 1.0) and not file.decimal(INTERCEPT) and MODALITY_TABLES not in file.values


def _modality(domain: Floats, stored: Stored, file: DicomFile) -> Floats:
    item = file.first_item(MODALITY_TABLES)
    if item and (table := _read_table(item, signed=stored.signed)):
        return table.look_up(domain)
    slope, intercept = file.decimal(SLOPE), file.decimal(INTERCEPT)
    return domain * (1.0 if slope is None or slope == 0 else slope) + (intercept or 0.0)


def _window(values: Floats, file: DicomFile) -> tuple[Floats | None, str]:
    """Return grey levels 0 to 255 by the file's VOI LUT or window, and a note about it; None without either."""
    item = file.first_item(WINDOW_TABLES)
    # Whatever the VR of the first input: after a rescale to negative values, it is negative as well.
    if item and (table := _read_table(item, signed=bool(values.min() < 0))):
        return table.look_up(values) * (255 / table.top), "window table applied"
    centre, width = file.decimal(CENTRE), file.decimal(WIDTH)
    if centre is None or width is None or width <= 0:
        return None, ""
    function = file.text(FUNCTION)
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shown = (values - centre) / width + 0.5
    else:
        shown = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.clip(shown, 0, 1) * 255, "window applied"


def padding_patterns(stored: Stored, file: DicomFile) -> npt.NDArray[np.bool_]:
    """Return which bit patterns are padding, whether its value fits in the bits in use or not."""
    domain = stored.domain()
    if len(file.values.get(PADDING, b"")) < 2:
        return np.zeros(len(domain), np.bool_)
    first, last = file.number(PADDING), file.number(PADDING_LIMIT, file.number(PADDING))
    low, high = sorted(_signed(value, signed=stored.signed) for value in (first, last))
    padding = (domain >= low) & (domain <= high)
    if is_wide_padding(stored, file):
        low, high = sorted(value & (len(domain) - 1) for value in (first, last))
        padding[low : high + 1] = True
    return padding


def is_wide_padding(stored: Stored, file: DicomFile) -> bool:
    """Whether the value of padding does not fit in the bits in use."""
    value = _signed(file.number(PADDING, 0), signed=stored.signed)
    low = -(1 << (stored.bits - 1)) if stored.signed else 0
    return not low <= value < low + (1 << stored.bits)


def _signed(value: int, *, signed: bool) -> int:
    return value - 65536 if signed and value >= 32768 else value


@dataclass(frozen=True, slots=True)
class _LookUp:
    first: int
    top: int
    entries: Floats

    def look_up(self, values: Floats) -> Floats:
        at = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[at.astype(np.int64)]


def _read_table(item: DicomFile, *, signed: bool) -> _LookUp | None:
    """Read a look-up table; None if the file has none that can be used."""
    shape, data = item.values.get(_TABLE_SHAPE, b""), item.values.get(_TABLE, b"")
    if len(shape) < 6:
        return None
    count, first, bits = np.frombuffer(shape[:6], item.order + "u2").tolist()
    count = count or 65536
    # Entries of eight bits are packed, or stored in a word each; the length shows which.
    packed = len(data) < 2 * count
    entries = np.frombuffer(data, "u1" if packed else item.order + "u2", -1 if packed else len(data) // 2)[:count]
    if len(entries) < count:
        raise ImageRefused("corrupt", "The DICOM's table of grey levels is too short.")
    # Tables that are declared wider or narrower than their entries reach from 0 to the largest one.
    largest = int(entries.max())
    top = (1 << bits) - 1 if largest.bit_length() == bits else max(1, largest)
    signed = signed or item.vrs.get(_TABLE_SHAPE) == b"SS"
    return _LookUp(_signed(first, signed=signed), top, entries.astype(np.float64))


def _counts(patterns: Patterns, size: int) -> npt.NDArray[np.int64]:
    flat, counts = patterns.reshape(-1), np.zeros(size, np.int64)
    for start in range(0, len(flat), _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=size)
    return counts


def look_up(patterns: Patterns, table: npt.NDArray[T]) -> npt.NDArray[T]:
    """The entry of the table for each pattern (H, W), block by block."""
    flat, levels = patterns.reshape(-1), np.empty(patterns.size, table.dtype)
    for start in range(0, len(flat), _BLOCK):
        np.take(table, flat[start : start + _BLOCK], out=levels[start : start + _BLOCK], mode="clip")
    return levels.reshape(patterns.shape)
