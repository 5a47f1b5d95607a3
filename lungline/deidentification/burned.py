"""Text that is burned into a picture near its margins: names, dates and side markers, found and painted over.

Letters are strokes: thin, and far from the grey around them. Anatomy near the margins is neither, tubes and leads are
both; so a few of those go as well, which costs less than a name that stays. The middle of the picture is not touched.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lungline.imaging.picture import Pixels

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

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
    known = _pooled(~mask, step, np.min).astype(np.float32)
    means = _pooled(values, step, np.mean).astype(np.float32)
    fill = np.full(known.shape, (means * known).sum() / max(1, known.sum()), np.float32)
    for radius in (64, 24, 8):  # the nearer, the better; further out where all that is near is hidden
        weight, total = _box(known, radius), _box(means * known, radius)
        enough = weight > 0.02
        fill[enough] = total[enough] / weight[enough]
    whole = np.repeat(np.repeat(fill, step, axis=0), step, axis=1)[: mask.shape[0], : mask.shape[1]]
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


def _strokes(grey: npt.NDArray[Any], thickness: int) -> Mask:
    """Pixels much brighter than anything as wide as a stroke around them (white top-hat)."""
    levels = grey.astype(np.int16)
    opened = _slid(_slid(levels, thickness, np.minimum), thickness, np.maximum)
    return levels - opened >= _CONTRAST


def _slid(levels: npt.NDArray[np.int16], thickness: int, how: np.ufunc) -> npt.NDArray[np.int16]:
    """The least or greatest value in a square around each pixel."""
    half = thickness // 2
    for axis in (0, 1):
        wide = np.pad(levels, [(half, half) if axis == at else (0, 0) for at in (0, 1)], mode="edge")
        length = levels.shape[axis]
        levels = how.reduce([wide.take(range(at, at + length), axis) for at in range(thickness)])
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


def _box(values: Floats, radius: int) -> Floats:
    """The mean of the square around each pixel."""
    return _run(_run(values, radius).T, radius).T


def _run(values: Floats, radius: int) -> Floats:
    """The mean of the column around each pixel."""
    length = values.shape[0]
    sums = np.zeros((length + 1, values.shape[1]), np.float64)
    np.cumsum(values, axis=0, out=sums[1:])
    low = np.array([max(0, at - radius) for at in range(length)])
    high = np.array([min(length, at + radius + 1) for at in range(length)])
    return ((sums[high] - sums[low]) / (high - low)[:, None]).astype(np.float32)
