"""Labels of images that are not upright frontal chest X-rays, made from X-rays: a confident label is an error.

The images differ from those that the chest check is fitted on (lungline.training.outliers): they are made from the
whole X-ray instead of the network's input, with other layouts. Letterboxed images are in scope: their margins are cut.
"""

import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.package.package import Package
from lungline.results.records import REFUSED, UNSURE

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, np.random.Generator], Pixels]
_TEXTS = ("DOE^JANE  1234567", "F 04Y  2019-03-02", "CHEST PA  W:2048 L:1024", "Zoom 112 %")


def _screenshot(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A viewer's window: tool bar, perhaps a list at the left and a status line, text on the film."""
    wide = 900
    high = round(wide / rng.uniform(1.0, 1.6))
    window = Image.new("L", (wide, high), int(rng.choice([0, 20, 40, 60, 200, 235])))
    pen = ImageDraw.Draw(window)
    top, left = round(rng.uniform(0.03, 0.09) * high), round(float(rng.choice([0, 0.05, 0.1, 0.16])) * wide)
    below = round(float(rng.choice([0, 0.03, 0.05])) * high)
    share = min(1.0, 1.05 * float(np.sqrt(rng.uniform(0.4, 0.9))))
    width, height = round((wide - left) * share), round((high - top - below) * share)
    x, y = left + round((wide - left - width) * rng.random()), top + round((high - top - below - height) * rng.random())
    window.paste(Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR), (x, y))
    bar = int(rng.choice([50, 90, 180, 225]))
    pen.rectangle((0, 0, wide, top), fill=bar)
    if left:
        pen.rectangle((0, top, left, high), fill=int(rng.choice([35, 70, 210])))
    if below:
        pen.rectangle((0, high - below, wide, high), fill=bar)
    for at in range(int(rng.integers(4, 14))):
        button = (8 + at * wide // 16, 5, 8 + at * wide // 16 + top - 10, max(6, top - 6))
        pen.rectangle(button, fill=int(rng.integers(256)), outline=int(rng.integers(256)))
    places = ((x + 6, y + 6), (x + width - 170, y + 6), (x + 6, y + height - 22), (x + width - 100, y + height - 22))
    for text, place in list(zip(_TEXTS, places, strict=True))[: int(rng.integers(1, 5))]:
        pen.text(place, text, fill=255, font_size=15)
    return np.asarray(window)


def _photograph(film: Pixels, rng: np.random.Generator) -> Pixels:
    """A photograph of a screen, taken at an angle, with moire and a reflection."""
    margin = int(rng.integers(12, 40))
    size = 640 - 2 * margin, 480 - 2 * margin
    light = np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BILINEAR), np.float64)
    down, across = np.mgrid[: size[1], : size[0]]
    period, angle = rng.uniform(2.2, 5), rng.uniform(0, np.pi)
    light = light * rng.uniform(0.6, 1) + rng.uniform(0, 30)
    light += 10 * np.sin(2 * np.pi * (across * np.cos(angle) + down * np.sin(angle)) / period)
    middle = rng.uniform(0, 1, 2) * size
    light += rng.uniform(0, 60) * np.exp(-(((across - middle[0]) / 150) ** 2) - ((down - middle[1]) / 120) ** 2)
    screen = Image.new("L", (640, 480), int(rng.integers(5, 40)))
    screen.paste(Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)), (margin, margin))
    ends = np.array([(60, 50), (740, 50), (740, 550), (60, 550)]) + rng.uniform(-1, 1, (4, 2)) * (50, 40)
    rows: list[list[Any]] = []
    corners = [(0, 0), (640, 0), (640, 480), (0, 480)]
    for (x, y), (u, v) in zip(ends, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    transform = np.linalg.solve(np.array(rows), np.array(corners, np.float64).ravel()).tolist()
    kind = Image.Transform.PERSPECTIVE
    room = Image.new("L", (800, 600), int(rng.integers(10, 120)))
    seen = Image.new("L", screen.size, 255).transform(room.size, kind, transform)
    room.paste(screen.transform(room.size, kind, transform, Image.Resampling.BILINEAR), (0, 0), seen)
    blurred = np.asarray(room.filter(ImageFilter.GaussianBlur(0.7)))
    return np.clip(blurred + rng.normal(0, 3, blurred.shape), 0, 255).astype(np.uint8)


def _letterboxed(film: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = film.shape
    sides = rng.choice(((1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1), (0, 0, 1, 0), (1, 0, 0, 0), (0, 1, 0, 1)))
    above, below, left, right = (sides * rng.uniform(0.05, 0.35, 4) * (height, height, width, width)).astype(int)
    level = int(rng.choice([0, 0, 255, 128, 30, 70]))
    return np.pad(film, ((above, below), (left, right)), constant_values=level)


def _doubled(film: Pixels, rng: np.random.Generator) -> Pixels:
    pair = np.hstack([film, film])
    gap = np.full((len(film), int(rng.integers(2, 20))), int(rng.choice([0, 255])), np.uint8)
    layouts = (pair, np.hstack([film, gap, film]), np.vstack([film, film]), np.vstack([pair, pair]))
    return layouts[rng.integers(4)]


def _halved(film: Pixels, rng: np.random.Generator) -> Pixels:
    middle, centre = film.shape[0] // 2, film.shape[1] // 2
    return (film[:, :centre], film[:, centre:], film[:middle], film[middle:])[rng.integers(4)]


def _quartered(film: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = film.shape[0] // 2, film.shape[1] // 2
    top, left = round(rng.random() * height), round(rng.random() * width)
    return film[top : top + height, left : left + width]


CHANGES: dict[str, Change] = {
    "plain": lambda film, _: film,
    "letterboxed": _letterboxed,
    "screenshot": _screenshot,
    "photograph of a screen": _photograph,
    "doubled": _doubled,
    "halved": _halved,
    "a quarter of it": _quartered,
    "mirrored": lambda film, _: np.fliplr(film),
    "on its side": lambda film, rng: np.rot90(film, int(rng.choice([1, 3]))),
    "upside down": lambda film, _: np.rot90(film, 2),
    "negative": lambda film, _: 255 - film,
}


class OutOfScopeLabels(BaseModel):
    """The labels that X-rays got after a change."""

    model_config = ConfigDict(frozen=True)

    change: str
    n: int
    labels: dict[str, int] = Field(description="Images by label.")

    @property
    def confident(self) -> int:
        """Images with the label of a finding."""
        return sum(count for label, count in self.labels.items() if label not in (UNSURE, REFUSED))


def measure(package: Package, files: Iterable[bytes], limits: Limits | None = None) -> list[OutOfScopeLabels]:
    """Change X-rays, given as file bytes, in every way of CHANGES, and count the labels; the same in every run."""
    diagnoser = Diagnoser(package, limits or Limits())
    films = [decode(data, diagnoser.limits).pixels for data in files]
    rows: list[OutOfScopeLabels] = []
    for name, change in CHANGES.items():
        counts: Counter[str] = Counter()
        for number, film in enumerate(films):
            changed = change(film, np.random.default_rng([zlib.crc32(name.encode()), number]))
            counts[diagnoser.diagnose(_jpeg(changed), heatmap=False, statistics=False).label] += 1
        rows.append(OutOfScopeLabels(change=name, n=len(films), labels=dict(counts)))
    return rows


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
