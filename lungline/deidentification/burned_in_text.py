"""Text that is burned into a picture near its margins: names, dates and side markers, found and painted over.

Letters are strokes: thin, and far from the grey around them. Anatomy near the margins is neither, tubes and leads are
both; so a few of those go as well, which costs less than a name that stays. The middle of the picture is not touched.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lungline.imaging.image import Pixels

Mask = npt.NDArray[np.bool_]
Sums = npt.NDArray[np.float64]

_SIDE = 512  # strokes are looked for at this size
_CELLS = 64  # and blamed on cells, of which the longest side has so many
_STROKE = 0.02  # a stroke is thinner than this share of the longest side
_CONTRAST = 32  # grey levels between a stroke and what is around it
_SHARE = 0.06  # of a cell, in strokes, that makes it suspect
_MARGIN, _REACH = 0.22, 0.38  # text begins in the outer fifth, and may go on inwards up to here


def find_text(pixels: Pixels) -> Mask:
    """Where text may be: bool (H, W) of the same size as the grey picture."""
    height, width = pixels.shape
    step = max(1, -(-max(height, width) // _SIDE))
    # Of each block the brightest pixel, then the darkest: a stroke of one pixel survives.
    thickness = max(1, round(_STROKE * max(height, width) / step / 2)) * 2 + 1
    bright, dark = _pooled(pixels, step, np.max), 255 - _pooled(pixels, step, np.min)
    cell = max(3, -(-max(height, width) // step // _CELLS))
    cells = _cells(_strokes(bright, thickness) | _strokes(dark, thickness), cell)
    suspects = _grown(cells, *_zones(cells.shape))
    side = cell * step
    return np.kron(_dilated(suspects), np.ones((side, side), np.bool_))[:height, :width]


def paint_over(values: npt.NDArray[Any], mask: Mask) -> npt.NDArray[Any]:
    """The values (H, W) or (H, W, C) with those under the mask replaced by a blur of what is around them.

    Nothing of what was there takes part in the blur. The type of the values stays.
    """
    if not mask.any():
        return values
    if values.ndim == 3:
        return np.stack([paint_over(values[..., at], mask) for at in range(values.shape[2])], axis=2)
    step = max(1, -(-max(mask.shape) // _SIDE))
    known = _pooled(~mask, step, np.min)
    means = _pooled(values, step, np.mean) * known
    # Only what is hidden is filled: of a whole picture the blurs alone would cost more than judging it.
    hidden = np.nonzero(~known)
    fill = np.full(hidden[0].size, means.sum() / max(1, known.sum()))
    sums = _summed(known), _summed(means)
    for radius in (64, 24, 8):  # the nearer, the better; further out where all that is near is hidden
        (weight, area), (total, _) = (_in_squares(one, hidden, radius) for one in sums)
        enough = weight > 0.02 * area
        fill[enough] = total[enough] / weight[enough]
    blurred = np.zeros(known.shape)
    blurred[hidden] = fill
    whole = np.repeat(np.repeat(blurred, step, axis=0), step, axis=1)[: mask.shape[0], : mask.shape[1]]
    kind = values.dtype
    if kind.kind in "ui":
        whole = np.clip(np.rint(whole), np.iinfo(kind).min, np.iinfo(kind).max)
    return np.where(mask, whole.astype(kind), values)


def _pooled(values: npt.NDArray[Any], step: int, how: Callable[..., Any]) -> npt.NDArray[Any]:
    """Blocks of `step` by `step` reduced to one value; the last ones are filled up with their own edge."""
    height, width = values.shape
    if step == 1:
        return values
    filled = np.pad(values, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = filled.reshape(filled.shape[0] // step, step, filled.shape[1] // step, step)
    return how(blocks, axis=(1, 3))


def _strokes(grey: Pixels, thickness: int) -> Mask:
    """Pixels much brighter than anything as wide as a stroke around them (white top-hat)."""
    opened = _slid(_slid(grey, thickness, np.minimum), thickness, np.maximum)
    return grey - opened >= _CONTRAST  # no pixel is darker than its opening


def _slid(levels: Pixels, thickness: int, how: np.ufunc) -> Pixels:
    """The least or greatest value in a square around each pixel."""
    half = thickness // 2
    for axis in (0, 1):
        wide = np.pad(levels, [(half, half) if axis == at else (0, 0) for at in (0, 1)], mode="edge")
        span = 1  # `wide` has the values of spans so long; two of them, overlapping, make a longer one
        while span < thickness:
            more = min(span, thickness - span)
            wide = how(wide[:-more], wide[more:]) if axis == 0 else how(wide[:, :-more], wide[:, more:])
            span += more
        levels = wide
    return levels


def _cells(strokes: Mask, cell: int) -> Mask:
    height, width = strokes.shape
    filled = np.pad(strokes, ((0, -height % cell), (0, -width % cell)))
    counts = filled.reshape(filled.shape[0] // cell, cell, filled.shape[1] // cell, cell).sum(axis=(1, 3))
    return counts >= max(2, _SHARE * cell * cell)


def _zones(shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Cells in the margin, and cells that text which begins there may reach."""
    height, width = shape
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inwards = np.minimum(np.minimum(down, 1 - down)[:, None], np.minimum(across, 1 - across)[None, :])
    return inwards < _MARGIN, inwards < _REACH


def _grown(cells: Mask, margin: Mask, reach: Mask) -> Mask:
    """Suspect cells in the margin, and those within reach that touch them."""
    found = cells & margin
    for _ in range(max(cells.shape)):
        more = _dilated(found) & cells & reach
        if (more == found).all():
            break
        found |= more
    return found


def _dilated(cells: Mask) -> Mask:
    wide = np.pad(cells, 1)
    height, width = cells.shape
    return np.logical_or.reduce([wide[y : y + height, x : x + width] for y in range(3) for x in range(3)])


def _summed(values: npt.NDArray[Any]) -> Sums:
    """At (y, x) the sum of all values above y and left of x."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(values, axis=0, out=sums[1:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    return sums


def _in_squares(sums: Sums, places: tuple[npt.NDArray[np.intp], ...], radius: int) -> tuple[Sums, npt.NDArray[np.intp]]:
    """Sum and number of the values in a square around each place, as far as it lies within the picture."""
    (top, left), (bottom, right) = (
        [np.clip(at + way, 0, length - 1) for at, length in zip(places, sums.shape, strict=True)]
        for way in (-radius, radius + 1)
    )
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return inside, (bottom - top) * (right - left)
