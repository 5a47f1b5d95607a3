"""Outline a lung field as closed polygons, in shares of the image file rather than of the network's input."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lungline.imaging.image import DecodedImage
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


def outlines_of(field: npt.NDArray[np.float32], image: DecodedImage, preparation: Preparation) -> tuple[Outline, ...]:
    """The outlines of a field (h, w) in 0..1 over the network's input, the largest first; none for an empty field.

    Margins that the preparation cut, and what it cropped, are mapped back: the polygons lie over the whole image.
    """
    height, width = image.pixels.shape
    left, top, right, bottom = preparation.region(image)
    scale = np.array([(right - left) / width, (bottom - top) / height])
    shift = np.array([left / width, top / height])
    cells = np.array(field.shape[::-1])
    polygons = sorted(_polygons(field), key=_area, reverse=True)[:MOST_OUTLINES]
    shares = [np.clip(_simplified(points) / cells, 0, 1) * scale + shift for points in polygons]
    return tuple(tuple(np.rint(share * 1000).astype(int).ravel().tolist()) for share in shares)


def _polygons(field: npt.NDArray[np.float32]) -> Iterator[Floats]:
    """The lines around what is lung, as x and y in cells; a field that reaches the image's side is closed there."""
    padded = np.pad(np.nan_to_num(field).astype(np.float64), 1)
    following = _lines(padded >= _LEVEL)
    while following:
        start, edge = following.popitem()
        ring = [start]
        while edge != start:
            ring.append(edge)
            edge = following.pop(edge)
        points = np.array([_crossing(padded, edge) for edge in ring])
        if _area(points) >= _LEAST_AREA * field.size:
            yield points


def _lines(inside: npt.NDArray[np.bool_]) -> dict[Edge, Edge]:
    """The line of each cell, from edge to edge; each edge has one line that comes and one that goes."""
    corners = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    lines: dict[Edge, Edge] = {}
    for row, column in np.argwhere((corners > 0) & (corners < 15)).tolist():
        for (y, x, down), (to_y, to_x, to_down) in _LINES[int(corners[row, column])]:
            lines[row + y, column + x, down] = row + to_y, column + to_x, to_down
    return lines


def _crossing(padded: Floats, edge: Edge) -> tuple[float, float]:
    """Where the field crosses the level on an edge, as x and y in cells; the middle of the first cell is 0.5."""
    row, column, down = edge
    first, second = padded[row, column], padded[row + down, column + 1 - down]
    share = (_LEVEL - first) / (second - first)
    return column - 0.5 + (0 if down else share), row - 0.5 + (share if down else 0)


def _area(points: Floats) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _simplified(points: Floats) -> Floats:
    """A ring with fewer points, none of which moves (Douglas and Peucker); coarser while it has too many."""
    tolerance = _TOLERANCE
    while True:
        far = int(np.argmax(np.linalg.norm(points - points[0], axis=1)))
        ring = np.vstack([points, points[:1]])
        kept = {0, far, *_kept(ring, 0, far, tolerance), *_kept(ring, far, len(points), tolerance)}
        if 2 * len(kept) <= MOST_NUMBERS:
            return points[sorted(kept)]
        tolerance *= 2


def _kept(ring: Floats, begin: int, end: int, tolerance: float) -> Iterator[int]:
    """The points between two others that are needed to stay within the tolerance."""
    if end - begin < 2:
        return
    line = ring[end] - ring[begin]
    offset = ring[begin + 1 : end] - ring[begin]
    length = float(np.hypot(*line))
    away = np.abs(offset @ np.array([-line[1], line[0]])) / length if length else np.linalg.norm(offset, axis=1)
    farthest = int(np.argmax(away))
    if away[farthest] > tolerance:
        middle = begin + 1 + farthest
        yield middle
        yield from _kept(ring, begin, middle, tolerance)
        yield from _kept(ring, middle, end, tolerance)
