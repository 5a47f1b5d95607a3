"""How a model holds on spoilt X-rays, measured on the path that serving takes."""

import io
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import ImageRefused
from lungline.evaluation.corruptions import CORRUPTIONS, STRENGTHS
from lungline.images import Limits, decode
from lungline.metrics import Case, score, summarise
from lungline.package import Package


class Spoilt(BaseModel):
    """Figures under one corruption at one strength."""

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
    """Figures under every corruption at every strength."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Spoilt, ...]
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
    """Spoil the same cases in every way and judge them; `most` of each class are taken, evenly from all.

    `on_progress` hears rows done and rows in all. A case that cannot be decoded is left out.
    """
    chosen = _sample(list(cases), most)
    rows: list[Spoilt] = []
    total = len(CORRUPTIONS) * len(STRENGTHS)
    for name in CORRUPTIONS:
        for strength in STRENGTHS:
            spoilt = _spoil(chosen, name, strength, limits or Limits(), seed)
            found = summarise(score(package, spoilt, limits), package.card.thresholds, resamples=0)
            figures = {key: getattr(found, key) for key in ("n", *_FIGURES, "doubted")}
            rows.append(Spoilt(corruption=name, strength=strength, **figures))
            if on_progress:
                on_progress(len(rows), total)
    known = [row.auc for row in rows if row.auc is not None]
    return Robustness(rows=tuple(rows), auc=float(np.mean(known)) if known else None)


_FIGURES = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")


def _sample(cases: list[Case], most: int) -> list[Case]:
    kept: list[Case] = []
    for label in (0, 1):
        side = [case for case in cases if case.label == label]
        step = max(1.0, len(side) / most)
        kept += [side[int(place * step)] for place in range(min(most, len(side)))]
    return kept


def _spoil(cases: list[Case], name: str, strength: int, limits: Limits, seed: int) -> Iterator[Case]:
    for number, case in enumerate(cases):
        # Its own chance for each picture and corruption, the same in every run and for every model.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), strength, number])
        try:
            picture = _decoded(case.data, limits)
        except ImageRefused:
            continue
        buffer = io.BytesIO()
        Image.fromarray(CORRUPTIONS[name](picture, strength, rng)).save(buffer, "PNG", compress_level=1)
        yield Case(case.label, buffer.getvalue(), case.name, case.kind)


def _decoded(data: bytes, limits: Limits) -> np.ndarray:
    return decode(data, limits, at_least=224).pixels
