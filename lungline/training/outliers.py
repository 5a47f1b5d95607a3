"""Synthetic images that are not upright frontal chest X-rays: the negatives of the chest check, by kind.

Most are made from chest X-rays: mirrored, turned, inverted, cut, side by side, in a viewer's window, on a photographed
screen. So the check can rely neither on texture nor on lungs alone.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lungline.training.drawings import DRAWINGS
from lungline.training.screens import on_a_screen, viewer_window

Pixels = NDArray[np.uint8]
Kind = Callable[[Pixels, Pixels, np.random.Generator], Pixels]
"""Makes an outlier from a chest X-ray and another one, both (size, size)."""


def draw_outliers(count: int, chests: Pixels, rng: np.random.Generator) -> Pixels:
    """uint8 (count, size, size), the kinds of KINDS in turn; `chests` are prepared X-rays (N, size, size)."""
    return _in_turn(KINDS, count, chests, rng)


def draw_hardest(count: int, chests: Pixels, rng: np.random.Generator) -> tuple[Pixels, NDArray[np.int_]]:
    """uint8 (count, size, size), the kinds of HARDEST in turn, and the place of each one's kind in KINDS."""
    places = np.array([KINDS.index(kind) for kind in HARDEST])
    return _in_turn(HARDEST, count, chests, rng), places[np.arange(count) % len(HARDEST)]


def _in_turn(kinds: "tuple[Kind, ...]", count: int, chests: Pixels, rng: np.random.Generator) -> Pixels:
    result = np.empty((count, *chests.shape[1:]), np.uint8)
    for index in range(count):
        chest, other = chests[rng.integers(len(chests), size=2)]
        result[index] = kinds[index % len(kinds)](chest, other, rng)
    return result


def resharpened(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Blurred or sharpened at random, so that sharpness tells the check nothing."""
    size = len(image)
    whole = Image.fromarray(np.ascontiguousarray(image))
    if rng.random() < 0.5:
        percent = int(rng.integers(60, 350))
        return np.asarray(whole.filter(ImageFilter.UnsharpMask(float(rng.uniform(1, 3)), percent, threshold=0)))
    if rng.random() < 0.3:
        return np.asarray(whole.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.4)) * size / 96)))
    wide, high = (round(size * rng.uniform(0.35, 0.85)) if rng.random() < 0.7 else size for _ in range(2))
    return np.asarray(whole.resize((wide, high), Image.Resampling.BILINEAR).resize((size, size)))


def _drawn(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    return DRAWINGS[rng.integers(len(DRAWINGS))](len(chest), rng)


def _mirrored(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001 - one signature
    return np.fliplr(chest)


def _turned(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    """On its side or upside down, and sometimes mirrored as well."""
    turned = np.rot90(chest, int(rng.integers(1, 4)))
    return np.fliplr(turned) if rng.random() < 0.4 else turned


def _inverted(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    return 255 - (chest if rng.random() < 0.7 else np.fliplr(chest))


def _side(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    """The left or right half, stretched."""
    size = len(chest)
    cut = rng.uniform(0.4, 0.6) * size
    return _enlarged(chest, (0, 0, cut, size) if rng.random() < 0.5 else (size - cut, 0, size, size), rng)


def _end(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    """The upper or lower half, stretched."""
    size = len(chest)
    cut = rng.uniform(0.4, 0.62) * size
    return _enlarged(chest, (0, 0, size, cut) if rng.random() < 0.4 else (0, size - cut, size, size), rng)


def _part(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    size = len(chest)
    least = 0.15 if rng.random() < 0.3 else 0.3
    wide, high = size * rng.uniform(least, 0.62), size * rng.uniform(least, 0.62)
    left, top = rng.uniform(0, size - wide), rng.uniform(0, size - high)
    return _enlarged(chest, (left, top, left + wide, top + high), rng)


def _enlarged(chest: Pixels, box: tuple[float, float, float, float], rng: np.random.Generator) -> Pixels:
    part = np.asarray(Image.fromarray(chest).resize(chest.shape, Image.Resampling.BILINEAR, box))
    return resharpened(part, rng) if rng.random() < 0.7 else part  # cut from a whole film, it would be sharp


def _collage(chest: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Two to four X-rays, the same or two different ones, with or without a gap."""
    size = len(chest)
    second = chest if rng.random() < 0.5 else other
    second = np.fliplr(second) if rng.random() < 0.25 else second
    gap = np.full((size, int(rng.choice([0, 0, 1, 3]))), int(rng.choice([0, 255])), np.uint8)
    row = np.hstack([chest, gap, second])
    layout = rng.integers(4)
    if layout == 0:
        row = np.hstack([row, gap, chest]) if rng.random() < 0.3 else row
    elif layout == 1:
        row = np.vstack([chest, gap.T, second])
    elif layout == 2:
        row = np.vstack([row, np.hstack([second, gap, chest])])
    return np.asarray(Image.fromarray(row).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _viewer(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    return viewer_window(chest, len(chest), rng)


def _screen(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    return on_a_screen(chest, len(chest), rng)


def _destroyed(chest: Pixels, _other: Pixels, rng: np.random.Generator) -> Pixels:
    return (_shuffled, _smeared, _flattened)[rng.integers(3)](chest, rng)


def _shuffled(chest: Pixels, rng: np.random.Generator) -> Pixels:
    """Cut into tiles that are laid anew."""
    parts = int(rng.choice([2, 3, 4]))
    side = len(chest) // parts
    whole = chest[: parts * side, : parts * side]
    tiles = whole.reshape(parts, side, parts, side).swapaxes(1, 2).reshape(-1, side, side)
    order = rng.permutation(len(tiles))
    while (order == np.arange(len(tiles))).all():
        order = rng.permutation(len(tiles))
    laid = tiles[order].reshape(parts, parts, side, side).swapaxes(1, 2).reshape(parts * side, parts * side)
    return np.asarray(Image.fromarray(laid).resize((len(chest), len(chest))))


def _smeared(chest: Pixels, rng: np.random.Generator) -> Pixels:
    """Moved so much that nothing is left of its structures."""
    size = len(chest)
    thin = (1, size) if rng.random() < 0.5 else (size, 1)
    return np.asarray(Image.fromarray(chest).resize(thin, Image.Resampling.BOX).resize((size, size)))


def _flattened(chest: Pixels, rng: np.random.Generator) -> Pixels:
    """One half mirrored over the other, or its grey levels at random."""
    if rng.random() < 0.5:
        return rng.permutation(256).astype(np.uint8)[chest]
    top = chest[: (len(chest) + 1) // 2]
    return np.vstack([top, np.flipud(top)[-(len(chest) // 2) :]])


KINDS: tuple[Kind, ...] = (
    _mirrored,
    _turned,
    _inverted,
    _side,
    _end,
    _part,
    _collage,
    _viewer,
    _screen,
    _destroyed,
    _drawn,
)
# These look most like chests: they weigh twice, and there are more of them.
HARDEST = (_mirrored, _end, _viewer, _screen)
