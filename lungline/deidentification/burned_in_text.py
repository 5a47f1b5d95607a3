"""Find and paint over text that is burned into an image near its margins: names, dates and side markers.

Letters consist of strokes: thin, and with a high contrast to their surroundings. Anatomy near the margins has neither
property, but tubes and leads have both and are painted over as well: that costs less than a name that stays. The middle
of the image is never changed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lungline.imaging.image import Pixels

Mask = npt.NDArray[np.bool_]
Sums = npt.NDArray[np.float64]

_SIDE = 512  # strokes are detected in an image reduced to about this side, in pixels
_CELLS = 64  # cells along the longest side; a whole cell is text or not
_STROKE = 0.02  # a stroke is thinner than this share of the longest side
_CONTRAST = 32  # grey levels between a stroke and its surroundings
_SHARE = 0.06  # share of strokes in a cell above which it is suspect
_MARGIN, _REACH = 0.22, 0.38  # shares of the side: text begins in the margin and continues inwards up to the reach


def find_text(pixels: Pixels) -> Mask:
    """A mask, bool (H, W), of probable text in a grey image, uint8 (H, W)."""
    height, width = pixels.shape
    step = max(1, -(-max(height, width) // _SIDE))
    # Reduced to the brightest and to the darkest pixel of each block: a stroke of one pixel survives.
    thickness = max(1, round(_STROKE * max(height, width) / step / 2)) * 2 + 1
    bright, dark = _pooled(pixels, step, np.max), 255 - _pooled(pixels, step, np.min)
    cell = max(3, -(-max(height, width) // step // _CELLS))
    cells = _cells(_strokes(bright, thickness) | _strokes(dark, thickness), cell)
    suspects = _grown(cells, *_zones(cells.shape))
    side = cell * step
    return np.kron(_dilated(suspects), np.ones((side, side), np.bool_))[:height, :width]


def paint_over(values: npt.NDArray[Any], mask: Mask) -> npt.NDArray[Any]:
    """The values, (H, W) or (H, W, C), with those under the mask replaced by a blur of their surroundings.

    Values under the mask do not influence the blur. The dtype stays; without a mask, the values are returned as given.
    """
    if not mask.any():
        return values
    if values.ndim == 3:
        return np.stack([paint_over(values[..., at], mask) for at in range(values.shape[2])], axis=2)
    step = max(1, -(-max(mask.shape) // _SIDE))
    visible = _pooled(~mask, step, np.min)
    means = _pooled(values, step, np.mean) * visible
    # Only pixels under the mask are blurred: blurring the whole image would cost more than the diagnosis.
    hidden = np.nonzero(~visible)
    fill = np.full(hidden[0].size, means.sum() / max(1, visible.sum()))
    weights, totals = _summed(visible), _summed(means)
    for radius in (64, 24, 8):  # the nearest square in which enough is visible decides
        weight, area = _in_squares(weights, hidden, radius)
        total, _ = _in_squares(totals, hidden, radius)
        enough = weight > 0.02 * area
        fill[enough] = total[enough] / weight[enough]
    blurred = np.zeros(visible.shape)
    blurred[hidden] = fill
    dtype = values.dtype
    if dtype.kind in "ui":
        blurred = np.clip(np.rint(blurred), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return _filled(values, mask, blurred.astype(dtype), step)


def _filled(values: npt.NDArray[Any], mask: Mask, blurred: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """The values with those under the mask from `blurred`, which has one for each block; row by row of blocks."""
    result = values.copy()
    for number, levels in enumerate(blurred):
        band = slice(number * step, (number + 1) * step)
        under = mask[band]
        if under.any():
            np.copyto(result[band], np.repeat(levels, step)[: mask.shape[1]], where=under)
    return result


def _pooled(values: npt.NDArray[Any], step: int, reduce: Callable[..., Any]) -> npt.NDArray[Any]:
    """Blocks of `step` by `step` reduced to one value each; incomplete blocks are padded with their edge."""
    height, width = values.shape
    if step == 1:
        return values
    filled = np.pad(values, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = filled.reshape(filled.shape[0] // step, step, filled.shape[1] // step, step)
    return reduce(blocks, axis=(1, 3))


def _strokes(grey: Pixels, thickness: int) -> Mask:
    """Pixels in structures that are thinner than a stroke and much brighter than their surroundings (white top-hat)."""
    opened = _slid(_slid(grey, thickness, np.minimum), thickness, np.maximum)
    return grey - opened >= _CONTRAST  # an opening is never brighter than the image


def _slid(levels: Pixels, thickness: int, extreme: np.ufunc) -> Pixels:
    """The minimum or maximum in a square around each pixel."""
    half = thickness // 2
    for axis in (0, 1):
        wide = np.pad(levels, [(half, half) if axis == at else (0, 0) for at in (0, 1)], mode="edge")
        span = 1  # `wide` has the extremes of spans of this length; two overlapping spans make a longer one
        while span < thickness:
            more = min(span, thickness - span)
            wide = extreme(wide[:-more], wide[more:]) if axis == 0 else extreme(wide[:, :-more], wide[:, more:])
            span += more
        levels = wide
    return levels


def _cells(strokes: Mask, cell: int) -> Mask:
    height, width = strokes.shape
    filled = np.pad(strokes, ((0, -height % cell), (0, -width % cell)))
    counts = filled.reshape(filled.shape[0] // cell, cell, filled.shape[1] // cell, cell).sum(axis=(1, 3))
    return counts >= max(2, _SHARE * cell * cell)


def _zones(shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Masks of the cells in the margin, and of the cells that text from the margin may reach."""
    height, width = shape
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inwards = np.minimum(np.minimum(down, 1 - down)[:, None], np.minimum(across, 1 - across)[None, :])
    return inwards < _MARGIN, inwards < _REACH


def _grown(cells: Mask, margin: Mask, reach: Mask) -> Mask:
    """Suspect cells in the margin, and suspect cells within reach that touch them."""
    text = cells & margin
    for _ in range(max(cells.shape)):
        more = _dilated(text) & cells & reach
        if (more == text).all():
            break
        text |= more
    return text


def _dilated(cells: Mask) -> Mask:
    wide = np.pad(cells, 1)
    height, width = cells.shape
    return np.logical_or.reduce([wide[y : y + height, x : x + width] for y in range(3) for x in range(3)])


def _summed(values: npt.NDArray[Any]) -> Sums:
    """The summed-area table: at (y, x) the sum of all values above y and left of x."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(values, axis=0, out=sums[1:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    return sums


def _in_squares(sums: Sums, places: tuple[npt.NDArray[np.intp], ...], radius: int) -> tuple[Sums, npt.NDArray[np.intp]]:
    """Sum and number of the values in a square around each place, clipped to the image."""
    (top, left), (bottom, right) = (
        [np.clip(at + way, 0, length - 1) for at, length in zip(places, sums.shape, strict=True)]
        for way in (-radius, radius + 1)
    )
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return inside, (bottom - top) * (right - left)
