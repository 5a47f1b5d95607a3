"""Metrics on corrupted X-rays, measured on the path of serving."""

import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import ImageRefused
from lungline.evaluation.concurrency import in_order
from lungline.evaluation.metrics import Case, summarise
from lungline.evaluation.scoring import score
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.package.package import Package

Pixels = NDArray[np.uint8]
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]

STRENGTHS = (1, 2)


def _grey(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _either(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _noise(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(pixels + rng.normal(0, (10, 22)[strength - 1], pixels.shape))


def _blur(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001 - one signature for all
    radius = (1.5, 3.0)[strength - 1] * min(pixels.shape) / 224
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _compression(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=(25, 8)[strength - 1])
    return np.asarray(Image.open(buffer))


def _resolution(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    height, width = pixels.shape
    scale = (72, 44)[strength - 1] / min(pixels.shape)
    small = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _exposure(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(pixels + float((35, 70)[strength - 1] * _either(rng)))


def _contrast(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    mean = pixels.mean()
    return _grey((pixels - mean) * (0.6, 0.35)[strength - 1] + mean)


def _gamma(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(255 * (pixels / 255) ** ((1.6, 2.4)[strength - 1] ** _either(rng)))


def _tilt(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    angle = (8, 16)[strength - 1] * _either(rng)
    return np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))


def _framing(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """A closer crop, off the centre."""
    height, width = pixels.shape
    kept, off = (0.9, 0.8)[strength - 1], (0.04, 0.07)[strength - 1]
    left, top = ((1 - kept) / 2 + off * _either(rng)) * width, ((1 - kept) / 2 + off * _either(rng)) * height
    box = (max(0.0, left), max(0.0, top), min(width, left + kept * width), min(height, top + kept * height))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box))


def _aspect(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Narrower with black bars at the sides, or lower with black bars above and below."""
    height, width = pixels.shape
    share = 1 / (1.15, 1.35)[strength - 1]
    size = (round(width * share), height) if rng.random() < 0.5 else (width, round(height * share))
    film = Image.new("L", (width, height))
    place = ((width - size[0]) // 2, (height - size[1]) // 2)
    film.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), place)
    return np.asarray(film)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "compression": _compression,
    "resolution": _resolution,
    "exposure": _exposure,
    "contrast": _contrast,
    "gamma": _gamma,
    "tilt": _tilt,
    "framing": _framing,
    "aspect": _aspect,
}


class CorruptedScore(BaseModel):
    """Metrics under one corruption at one strength."""

    model_config = ConfigDict(frozen=True)

    corruption: str
    strength: int
    n: int
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    unsure_rate: float | None
    doubted: int


class Robustness(BaseModel):
    """Metrics under every corruption at every strength."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[CorruptedScore, ...]
    auc: float | None = Field(description="Mean AUC of all rows.")


def measure(
    package: Package,
    cases: Iterable[Case],
    limits: Limits | None = None,
    *,
    most: int = 120,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Apply every corruption to the same cases and score them; `most` of each class are taken, evenly from all.

    `on_progress` gets the number of rows done and in all. A case that cannot be decoded is left out.
    """
    chosen = list(_decoded(_sample(list(cases), most), limits or Limits()))
    rows: list[CorruptedScore] = []
    total = len(CORRUPTIONS) * len(STRENGTHS)
    for name in CORRUPTIONS:
        for strength in STRENGTHS:
            corrupted = in_order(partial(_corrupted, name=name, strength=strength, seed=seed), chosen)
            evaluation = summarise(
                score(package, corrupted, limits), package.card.thresholds, resamples=0, task=package.card.task
            )
            metrics = {key: getattr(evaluation, key) for key in ("n", *_METRICS, "doubted")}
            rows.append(CorruptedScore(corruption=name, strength=strength, **metrics))
            if on_progress:
                on_progress(len(rows), total)
    areas = [row.auc for row in rows if row.auc is not None]
    return Robustness(rows=tuple(rows), auc=float(np.mean(areas)) if areas else None)


_METRICS = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")


def _sample(cases: list[Case], most: int) -> list[Case]:
    kept: list[Case] = []
    for label in (0, 1):
        side = [case for case in cases if int(case.label > 0) == label]
        step = max(1.0, len(side) / most)
        kept += [side[int(place * step)] for place in range(min(most, len(side)))]
    return kept


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A case whose pixels are ready to be corrupted in every way; `number` is its place in the sample."""

    number: int
    case: Case
    pixels: Pixels


def _decoded(cases: list[Case], limits: Limits) -> Iterator[_Decoded]:
    for number, case in enumerate(cases):
        try:
            yield _Decoded(number, case, decode(case.data, limits, at_least=224).pixels)
        except ImageRefused:
            continue


def _corrupted(image: _Decoded, name: str, strength: int, seed: int) -> Case:
    # A generator of its own for each image and corruption: the same in every run and for every model.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), strength, image.number])
    buffer = io.BytesIO()
    Image.fromarray(CORRUPTIONS[name](image.pixels, strength, rng)).save(buffer, "PNG", compress_level=1)
    return Case(image.case.label, buffer.getvalue(), image.case.name, image.case.kind)
