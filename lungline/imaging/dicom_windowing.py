"""Convert stored DICOM values to grey levels: modality transform, window, inversion.

All steps are combined in one table from stored value to grey level, so that a pixel costs one look-up.

Sources: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.image import Pixels

Floats = npt.NDArray[np.float64]

PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
CENTRE, WIDTH, INTERCEPT, SLOPE, FUNCTION = 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056
MODALITY_TABLES, WINDOW_TABLES = 0x00283000, 0x00283010
_TABLE_SHAPE, _TABLE = 0x00283002, 0x00283006
NEEDED = frozenset((PADDING, PADDING_LIMIT, CENTRE, WIDTH, INTERCEPT, SLOPE, FUNCTION, MODALITY_TABLES, WINDOW_TABLES))

_BLOCK = 1_000_000  # pixels in one look-up, which needs eight bytes a pixel
# Without a window, the darkest and brightest thousandth are markers, dead pixels and the edge of the collimator.
_TAIL = 0.001


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


def grey_levels(
    raw: npt.NDArray[np.unsignedinteger], stored: Stored, file: DicomFile, *, inverted: bool
) -> tuple[Pixels, list[str]]:
    """Convert bit patterns (H, W), uint8 or uint16, to grey levels where bright is dense; also return warnings."""
    table, warnings = _table(raw, stored, file, inverted=inverted)
    return _looked_up(raw, table), warnings


def _table(
    raw: npt.NDArray[np.unsignedinteger], stored: Stored, file: DicomFile, *, inverted: bool
) -> tuple[Pixels, list[str]]:
    domain = stored.domain()
    counts = _counts(raw, len(domain))
    padding = _padding(domain, stored, file)
    present = (counts > 0) & ~padding
    if not present.any():
        present = counts > 0
    values = _modality(domain, stored, file)
    shown, how = _window(values, stored, file)
    if shown is None or np.ptp(shown[present]) == 0:
        warning = how and "the window shows nothing and was not used"
        shown, how = _spread(values, np.where(present, counts, 0)), warning or "no window: grey levels were spread"
    if stored.bits <= 8 and how == "no window: grey levels were spread":
        shown, how = np.clip(values, 0, 255) if _is_plain(file) else shown, ""
    levels = 255 - shown if inverted else shown
    levels[padding] = 0
    warnings = ["MONOCHROME1 inverted"] * inverted
    warnings += [how] * bool(how)
    warnings += [f"{stored.bits} bit reduced to 8"] * (stored.bits > 8)
    return np.rint(levels).astype(np.uint8), warnings


def _is_plain(file: DicomFile) -> bool:
    return file.decimal(SLOPE) in (None, 1.0) and not file.decimal(INTERCEPT) and MODALITY_TABLES not in file.values


def _modality(domain: Floats, stored: Stored, file: DicomFile) -> Floats:
    item = file.first_item(MODALITY_TABLES)
    if item and (table := _read_table(item, signed=stored.signed)):
        return table.look_up(domain)
    slope, intercept = file.decimal(SLOPE), file.decimal(INTERCEPT)
    return domain * (1.0 if slope is None or slope == 0 else slope) + (intercept or 0.0)


def _window(values: Floats, stored: Stored, file: DicomFile) -> tuple[Floats | None, str]:
    """Return grey levels 0 to 255 by the file's VOI LUT or window, and a note about it; None without either."""
    item = file.first_item(WINDOW_TABLES)
    if item and (table := _read_table(item, signed=stored.signed)):
        return table.look_up(values) * (255 / ((1 << table.bits) - 1)), "window table applied"
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


def _spread(values: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Spread grey levels from the darkest to the brightest value, without the tails."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(counts[order]) / max(1, counts.sum())
    low = values[order[np.searchsorted(share, _TAIL, side="right")]]
    high = values[order[min(len(order) - 1, np.searchsorted(share, 1 - _TAIL))]]
    if high <= low:
        seen = values[counts > 0]
        low, high = (seen.min(), seen.max()) if len(seen) else (0.0, 1.0)
    return np.clip((values - low) / (high - low if high > low else 1.0), 0, 1) * 255


def _padding(domain: Floats, stored: Stored, file: DicomFile) -> npt.NDArray[np.bool_]:
    """Return which patterns are padding."""
    if len(file.values.get(PADDING, b"")) < 2:
        return np.zeros(len(domain), np.bool_)
    first = _signed(file.number(PADDING), signed=stored.signed)
    last = _signed(file.number(PADDING_LIMIT, file.number(PADDING)), signed=stored.signed)
    return (domain >= min(first, last)) & (domain <= max(first, last))


def _signed(value: int, *, signed: bool) -> int:
    return value - 65536 if signed and value >= 32768 else value


@dataclass(frozen=True, slots=True)
class _LookUp:
    first: int
    bits: int
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
    if not 8 <= bits <= 16:
        return None
    # Entries of eight bits are packed, or stored in a word each; the length shows which.
    packed = bits == 8 and len(data) < 2 * count
    entries = np.frombuffer(data, "u1" if packed else item.order + "u2", -1 if packed else len(data) // 2)[:count]
    if len(entries) < count:
        raise ImageRefused("corrupt", "The DICOM's table of grey levels is too short.")
    top = (1 << bits) - 1
    return _LookUp(_signed(first, signed=signed), bits, np.minimum(entries, top).astype(np.float64))


def _counts(raw: npt.NDArray[np.unsignedinteger], size: int) -> npt.NDArray[np.int64]:
    flat, counts = raw.reshape(-1), np.zeros(size, np.int64)
    for start in range(0, len(flat), _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=size)
    return counts


def _looked_up(raw: npt.NDArray[np.unsignedinteger], table: Pixels) -> Pixels:
    flat, levels = raw.reshape(-1), np.empty(raw.size, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        np.take(table, flat[start : start + _BLOCK], out=levels[start : start + _BLOCK], mode="clip")
    return levels.reshape(raw.shape)
