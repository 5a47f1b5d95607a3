"""Outline a lung field as closed polygons, in shares of the image file rather than of the network's input."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lungline.imaging.image import DecodedImage
from lungline.imaging.margins import Box
from lungline.imaging.preparation import Preparation

Floats = npt.NDArray[np.float64]
Outline = tuple[int, ...]
"""A closed polygon: x, y, x, y, ... in thousandths of the upright image's width and height."""

Edge = tuple[int, int, int]  # row and column of its first corner, and 1 when it runs down, 0 when it runs right

_LEVEL = 0.5
# Specks smaller than this share of the field are noise of the segmenter.
_LEAST_AREA = 0.005
# Points that lie closer than this many cells to the line between their neighbours are left out.
_TOLERANCE = 0.2
MOST_OUTLINES, MOST_NUMBERS = 8, 400

# The edges of a cell of four corners, in the order of their bits: top left, top right, bottom right, bottom left.
# Each line goes from one edge to another with the lung on its left; two opposite corners are taken as parted.
_TOP, _RIGHT, _BOTTOM, _LEFT = (0, 0, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)
_LINES: dict[int, tuple[tuple[Edge, Edge], ...]] = {
    1: ((_LEFT, _TOP),), 2: ((_TOP, _RIGHT),), 4: ((_RIGHT, _BOTTOM),), 8: ((_BOTTOM, _LEFT),),
    3: ((_LEFT, _RIGHT),), 6: ((_TOP, _BOTTOM),), 12: ((_RIGHT, _LEFT),), 9: ((_BOTTOM, _TOP),),
    7: ((_LEFT, _BOTTOM),), 11: ((_BOTTOM, _RIGHT),), 13: ((_RIGHT, _TOP),), 14: ((_TOP, _LEFT),),
    5: ((_LEFT, _TOP), (_RIGHT, _BOTTOM)), 10: ((_TOP, _RIGHT), (_BOTTOM, _LEFT)),
}  # fmt: skip


def outlines_of(
    field: npt.NDArray[np.float32], image: DecodedImage, preparation: Preparation, inside: Box | None = None
) -> tuple[Outline, ...]:
    """The outlines of a field (h, w) in 0..1 over the network's input, the largest first; none for an empty field.

    Margins that the preparation cut, and what it cropped, are mapped back: the polygons lie over the whole image.
    """
    height, width = image.pixels.shape
    left, top, right, bottom = preparation.region(image, inside)
    scale = np.array([(right - left) / width, (bottom - top) / height])
    shift = np.array([left / width, top / height])
    cells = np.array(field.shape[::-1])
    polygons = [points for _, points in sorted(_polygons(field), key=_first, reverse=True)[:MOST_OUTLINES]]
    shares = [np.clip(_simplified(points) / cells, 0, 1) * scale + shift for points in polygons]
    return tuple(tuple(np.rint(share * 1000).astype(int).ravel().tolist()) for share in shares)


def _first(pair: tuple[float, Floats]) -> float:
    return pair[0]


def _polygons(field: npt.NDArray[np.float32]) -> Iterator[tuple[float, Floats]]:
    """The area in cells of each piece of lung, and the line around it as x and y in cells.

    A field that reaches the image's side is closed there.
    """
    padded = np.zeros((field.shape[0] + 2, field.shape[1] + 2))
    padded[1:-1, 1:-1] = np.nan_to_num(field)
    following = _lines(padded >= _LEVEL)
    while following:
        start, edge = following.popitem()
        ring = [start]
        while edge != start:
            ring.append(edge)
            edge = following.pop(edge)
        points = _crossings(padded, ring)
        if (area := _area(points)) >= _LEAST_AREA * field.size:
            yield area, points


def _lines(inside: npt.NDArray[np.bool_]) -> dict[int, int]:
    """The line of each cell, from edge to edge; each edge has one line that comes and one that goes.

    An edge is a number: twice that of its first corner, and 1 more when it runs down.
    """
    bits = inside.astype(np.uint8)
    corners = bits[:-1, :-1] + 2 * bits[:-1, 1:] + 4 * bits[1:, 1:] + 8 * bits[1:, :-1]
    steps = _steps(inside.shape[1])
    rows, columns = np.nonzero((corners > 0) & (corners < 15))
    cells = (2 * (rows * inside.shape[1] + columns)).tolist()
    lines: dict[int, int] = {}
    for cell, bit in zip(cells, corners[rows, columns].tolist(), strict=True):
        for begin, end in steps[bit]:
            lines[cell + begin] = cell + end
    return lines


@lru_cache(8)
def _steps(width: int) -> dict[int, list[tuple[int, int]]]:
    """The lines of each kind of cell, as edges of the first cell of a field that is so wide."""
    return {
        bit: [(_number(begin, width), _number(end, width)) for begin, end in lines] for bit, lines in _LINES.items()
    }


def _number(edge: Edge, width: int) -> int:
    row, column, down = edge
    return 2 * (row * width + column) + down


def _crossings(padded: Floats, ring: list[int]) -> Floats:
    """Where the field crosses the level on edges, as x and y in cells; the middle of the first cell is 0.5."""
    corner, down = np.divmod(ring, 2)
    row, column = np.divmod(corner, padded.shape[1])
    first, second = padded[row, column], padded[row + down, column + 1 - down]
    share = (_LEVEL - first) / (second - first)
    return np.stack([column - 0.5 + share * (1 - down), row - 0.5 + share * down], axis=1)


def _area(points: Floats) -> float:
    x, y = points.T
    return abs(float(x[1:] @ y[:-1] + x[0] * y[-1] - y[1:] @ x[:-1] - y[0] * x[-1])) / 2


def _simplified(points: Floats) -> Floats:
    """A ring with fewer points, none of which moves (Douglas and Peucker); coarser while it has too many."""
    tolerance = _TOLERANCE
    far = int(np.argmax(np.linalg.norm(points - points[0], axis=1)))
    x, y = np.vstack([points, points[:1]]).T.tolist()
    while True:
        kept = {0, far, *_kept(x, y, (0, far), tolerance), *_kept(x, y, (far, len(points)), tolerance)}
        if 2 * len(kept) <= MOST_NUMBERS:
            return points[sorted(kept)]
        tolerance *= 2


def _kept(x: list[float], y: list[float], ends: tuple[int, int], tolerance: float) -> Iterator[int]:
    """The points between two others that are needed to stay within the tolerance.

    Lists and not arrays: most parts have a few points, and an array's operations cost more than those.
    """
    open_parts = [ends]
    while open_parts:
        begin, end = open_parts.pop()
        left, top = x[begin], y[begin]
        right, down = x[end] - left, y[end] - top
        length = math.hypot(right, down)
        most, middle = 0.0, begin
        for at in range(begin + 1, end):
            across, along = x[at] - left, y[at] - top
            away = abs(along * right - across * down) / length if length else math.hypot(across, along)
            if away > most:
                most, middle = away, at
        if most > tolerance:
            yield middle
            open_parts += (begin, middle), (middle, end)
