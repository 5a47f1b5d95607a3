"""X-rays in a viewer's window, on a photograph of a screen, and with what films really bear: text and a dark border."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lungline.imaging.margins import without_margins

Pixels = NDArray[np.uint8]
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789:^-/")


def viewer_window(chest: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A window with tool bars and text around the X-ray, or with bars at its edges only; (size, size)."""
    side = 3 * size
    window = Image.new("L", (side, side), int(rng.choice([0, 0, 20, 45, 70, 130, 200, 240])))
    pen = ImageDraw.Draw(window)
    left, top, wide, high = _floating(side, rng) if rng.random() < 0.55 else _filling(side, rng)
    film = Image.fromarray(np.ascontiguousarray(chest))
    window.paste(film.resize((wide, high), Image.Resampling.BICUBIC), (left, top))
    free = {"top": top, "bottom": side - top - high, "left": left, "right": side - left - wide}
    widest = max(free, key=lambda edge: free[edge])  # has a bar always: a bare window would be trimmed to its X-ray
    for edge, space in free.items():
        if edge == widest or (space > 4 and rng.random() < 0.6):
            _bar(pen, edge, max(6, round(space * rng.uniform(0.4, 1))), side, rng)
    _write(pen, (left, top, wide, high), int(rng.integers(0, 6)), rng)
    return _small(window, size)


def annotated(chest: Pixels, rng: np.random.Generator) -> Pixels:
    """The X-ray with a line or two of text, and in a collimator's grained border; it is a chest X-ray still."""
    size, side = len(chest), 3 * len(chest)
    film = Image.fromarray(np.ascontiguousarray(chest)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.7:
        _write(ImageDraw.Draw(film), (0, 0, side, side), int(rng.integers(1, 3)), rng)
    if rng.random() < 0.5:
        above, below, left, right = (rng.uniform(0, 0.05, 4) * side).astype(int)
        border = rng.normal(rng.uniform(0, 40), rng.uniform(3, 8), (side, side)).clip(0, 255).astype(np.uint8)
        border[above : side - below, left : side - right] = np.asarray(film)[above : side - below, left : side - right]
        film = Image.fromarray(border)
    return _small(film, size)


def _write(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], lines: int, rng: np.random.Generator) -> None:
    """Lines of text in the corners of a box, given as left, top, width and height."""
    left, top, wide, high = box
    for _ in range(lines):
        text = "".join(rng.choice(_LETTERS, int(rng.integers(1, 24))))
        place = left + float(rng.choice([4, wide * 0.6])), top + float(rng.choice([4, 16, high - 28, high - 14]))
        pen.text(place, text, fill=int(rng.choice([255, 220, 0])), font_size=int(rng.integers(8, 14)))


def _floating(side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of an X-ray that has a third to nine tenths of the window."""
    share, ratio = np.sqrt(rng.uniform(0.35, 0.9)), np.exp(rng.uniform(-0.2, 0.2))
    wide, high = min(side, round(side * share * ratio)), min(side, round(side * share / ratio))
    left, top = int(rng.integers(0, side - wide + 1)), int(rng.integers(0, side - high + 1))
    return (side - wide) // 2 if rng.random() < 0.5 else left, top, wide, high


def _filling(side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The same of an X-ray that fills the window but for bars at one to four of its edges."""
    used = rng.random(4) < (0.7, 0.4, 0.4, 0.25)
    used[0] |= not used.any()
    top, bottom, left, right = (used * rng.uniform(0.03, 0.14, 4) * side).astype(int)
    return int(left), int(top), int(side - left - right), int(side - top - bottom)


def _bar(pen: ImageDraw.ImageDraw, edge: str, thick: int, side: int, rng: np.random.Generator) -> None:
    """A tool bar along an edge, with buttons."""
    boxes = {
        "top": (0, 0, side, thick),
        "bottom": (0, side - thick, side, side),
        "left": (0, 0, thick, side),
        "right": (side - thick, 0, side, side),
    }
    left, top, right, bottom = boxes[edge]
    pen.rectangle((left, top, right, bottom), fill=int(rng.integers(256)))
    count, reach = int(rng.integers(2, 12)), rng.uniform(0.6, 1) * side
    for place in np.linspace(2, reach, count, endpoint=False):
        level, length = int(rng.integers(256)), side / 20
        if edge in {"top", "bottom"}:
            pen.rectangle((place, top + 2, place + length, max(top + 3, bottom - 2)), fill=level)
        else:
            pen.rectangle((left + 2, place, max(left + 3, right - 2), place + length), fill=level)


def on_a_screen(chest: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A photograph of a screen: bezel, moire, a reflection, perspective, noise; (size, size)."""
    side = 2 * size
    margin = round(side * rng.uniform(0.02, 0.09))
    inner = side - 2 * margin
    film = Image.fromarray(np.ascontiguousarray(chest)).resize((inner, inner), Image.Resampling.BICUBIC)
    down, across = np.mgrid[:inner, :inner]
    period, angle = rng.uniform(2, 7), rng.uniform(0, np.pi)
    moire = np.sin(2 * np.pi * (across * np.cos(angle) + down * np.sin(angle)) / period)
    middle = rng.uniform(0, inner, 2)
    glare = np.exp(-(((across - middle[0]) / (0.25 * inner)) ** 2) - ((down - middle[1]) / (0.2 * inner)) ** 2)
    light = np.asarray(film) * rng.uniform(0.5, 1) + rng.uniform(0, 40)
    light = light + rng.uniform(0, 14) * moire + (rng.uniform(0, 90) if rng.random() < 0.7 else 0) * glare
    bezel = int(rng.integers(0, 60)) if rng.random() < 0.8 else int(rng.integers(150, 240))
    screen = Image.new("L", (side, side), bezel)
    screen.paste(Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)), (margin, margin))
    seen = np.asarray(_in_perspective(screen, rng)) + rng.normal(0, rng.choice([0.5, 1, 2, 5]), (side, side))
    return _small(Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)), size)


def _in_perspective(screen: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The screen seen from aside, before a wall."""
    side = screen.width
    ends = np.array([(0, 0), (0, side), (side, side), (side, 0)], np.float64)
    outwards = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])
    corners = ends + outwards * rng.uniform(0.02, 0.2, (4, 2)) * side  # where the image's corners lie on the screen
    rows: list[list[Any]] = []
    for (x, y), (u, v) in zip(ends, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    transform = np.linalg.solve(np.array(rows), corners.ravel()).tolist()
    kind, smooth = Image.Transform.PERSPECTIVE, Image.Resampling.BILINEAR
    wall = Image.new("L", screen.size, int(rng.integers(60) if rng.random() < 0.5 else rng.integers(200)))
    shown = Image.new("L", screen.size, 255).transform(screen.size, kind, transform)
    wall.paste(screen.transform(screen.size, kind, transform, smooth), (0, 0), shown)
    return wall


def _small(image: Image.Image, size: int) -> Pixels:
    """The image at the network's size, without uniform margins: serving cuts them, too."""
    inside = image.crop(without_margins(np.asarray(image)))
    return np.asarray(inside.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
