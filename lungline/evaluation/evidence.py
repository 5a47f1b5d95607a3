"""Pictures of what a model's answers rest on: the mean heatmap over the mean lungs, and the border and inside tests."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation.metrics import Evaluation, Scored
from lungline.evaluation.shortcuts import CONFIDENT, border_only, inside_only
from lungline.package.card import Card, shifted
from lungline.package.package import Package

# Confident pneumonias that the mean is of: it changes little with more.
MOST = 60
_SIDE = 96

Floats = NDArray[np.float64]


def confident(scored: Sequence[Scored], card: Card) -> list[int]:
    """Places of confident pneumonias, evenly from all."""
    least = shifted(CONFIDENT, card.shift)
    places = [at for at, case in enumerate(scored) if case.label == 1 and (case.probability or 0) >= least]
    step = max(1.0, len(places) / MOST)
    return [places[int(at * step)] for at in range(min(MOST, len(places)))]


def evidence_png(package: Package, evaluation: Evaluation, files: Iterable[bytes]) -> bytes | None:
    """Three pictures side by side, of confident pneumonias given as files; None when there is no lung field or file."""
    diagnoser = Diagnoser(package)
    films: list[Floats] = []
    heats: list[Floats] = []
    fields: list[Floats] = []
    for data in files:
        diagnosis = diagnoser.diagnose(data, heatmap=False, statistics=False)
        if diagnosis.image is None or diagnosis.prediction is None or diagnosis.prediction.lungs is None:
            continue
        films.append(_square(package.card.preparation.resize(diagnosis.image)))
        heats.append(_square(diagnosis.prediction.cam))
        fields.append(_square(diagnosis.prediction.lungs))
    if not films:
        return None
    return _drawn(evaluation, films[0], tuple(np.mean(stack, axis=0) for stack in (films, heats, fields)))


def _square(values: NDArray[Any]) -> Floats:
    image = Image.fromarray(values.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64)


def _drawn(evaluation: Evaluation, example: Floats, means: tuple[Floats, ...]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.3), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    film, heat, field = means
    axes[0].imshow(film, cmap="gray")
    axes[0].imshow(heat, cmap="inferno", alpha=0.5, vmin=0)
    axes[0].contour(field, levels=[0.5], colors="white", linewidths=1)
    axes[0].set_title(f"Mean heatmap and lungs, inside {_number(evaluation.heat_inside)}", fontsize=9)
    pixels = example.astype(np.uint8)
    for place, painted, text, value in (
        (axes[1], border_only(pixels), "Border alone", evaluation.border_auc),
        (axes[2], inside_only(pixels), "Inside alone", evaluation.inside_auc),
    ):
        place.imshow(painted, cmap="gray", vmin=0, vmax=255)
        place.set_title(f"{text}: AUC {_number(value)}", fontsize=9)
    for place in axes:
        place.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
