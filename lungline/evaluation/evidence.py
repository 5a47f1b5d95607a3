"""Pictures of what a model's answers rest on.

The mean heatmap over the mean lungs, the border and inside tests, and the worst: confident positives with the least
heat inside the lungs.
"""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation.metrics import Evaluation, Scored
from lungline.evaluation.shortcuts import CONFIDENT, border_only, inside_only
from lungline.package.card import Card, shifted
from lungline.package.package import Package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Confident positives that the mean is of: it changes little with more.
MOST = 60
LEAST = 12
EVIDENCE, LEAST_INSIDE = "evidence.png", "least_inside.png"
CAPTIONS = {
    EVIDENCE: "Mean heatmap over the mean lungs of confident positives; the border alone; the inside alone",
    LEAST_INSIDE: "Confident positives with the least heat inside the lungs, which are outlined",
}
_SIDE = 96

Floats = NDArray[np.float64]


def confident(scored: Sequence[Scored], card: Card) -> list[int]:
    """Places of confident positives, evenly from all."""
    places = _confident(scored, card)
    step = max(1.0, len(places) / MOST)
    return [places[int(at * step)] for at in range(min(MOST, len(places)))]


def least_inside(scored: Sequence[Scored], card: Card) -> list[int]:
    """Places of the confident positives with the least heat inside the lungs, the least first."""
    places = [at for at in _confident(scored, card) if scored[at].heat_inside is not None]
    return sorted(places, key=lambda at: (scored[at].heat_inside or 0.0, at))[:LEAST]


def _confident(scored: Sequence[Scored], card: Card) -> list[int]:
    least = shifted(CONFIDENT, card.shift)
    return [at for at, case in enumerate(scored) if case.label == 1 and (case.probability or 0) >= least]


def pictures(
    package: Package, evaluation: Evaluation, scored: Sequence[Scored], files: Mapping[int, bytes]
) -> dict[str, bytes]:
    """PNG bytes by the file names of CAPTIONS; `files` are those of `scored` by place. Empty without lungs or files."""
    typical, least = (
        [files[at] for at in places if at in files]
        for places in (confident(scored, package.card), least_inside(scored, package.card))
    )
    drawn = {EVIDENCE: evidence_png(package, evaluation, typical), LEAST_INSIDE: least_inside_png(package, least)}
    return {name: png for name, png in drawn.items() if png is not None}


def least_inside_png(package: Package, files: Iterable[bytes]) -> bytes | None:
    """Each file's image small, with its heatmap and the outline of its lungs; None when none has lungs."""
    from matplotlib.figure import Figure

    shown = [seen for seen in map(partial(_seen, package), files) if seen is not None]
    if not shown:
        return None
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.6 * columns, 1.8 * rows), layout="constrained")
    places: Any = figure.subplots(rows, columns, squeeze=False)
    for place, seen in zip_longest(places.ravel(), shown):
        place.axis("off")
        if seen is not None:
            _overlaid(place, seen.film, seen.heat, seen.lungs)
            place.set_title(f"{seen.inside:.0%} inside, risk {seen.risk:.2f}", fontsize=7)
    return _png(figure)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the network got of a file, in squares of one size, and what it made of it."""

    film: Floats
    heat: Floats
    lungs: Floats
    inside: float
    risk: float


def _seen(package: Package, data: bytes) -> _Seen | None:
    diagnosis = Diagnoser(package).diagnose(data, heatmap=False, statistics=False)
    image, prediction = diagnosis.image, diagnosis.prediction
    if image is None or prediction is None or prediction.lungs is None or diagnosis.heat_inside is None:
        return None
    squares = map(_square, (package.card.preparation.resize(image), prediction.cam, prediction.lungs))
    return _Seen(*squares, inside=diagnosis.heat_inside, risk=prediction.probability)


def evidence_png(package: Package, evaluation: Evaluation, files: Iterable[bytes]) -> bytes | None:
    """Three pictures side by side, of confident positives given as files; None when there is no lung field or file."""
    shown = [seen for seen in map(partial(_seen, package), files) if seen is not None]
    if not shown:
        return None
    films, heats, fields = ([getattr(seen, name) for seen in shown] for name in ("film", "heat", "lungs"))
    return _drawn(evaluation, films[0], tuple(np.mean(stack, axis=0) for stack in (films, heats, fields)))


def _square(values: NDArray[Any]) -> Floats:
    image = Image.fromarray(values.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64)


def _drawn(evaluation: Evaluation, example: Floats, means: tuple[Floats, ...]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.3), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    film, heat, field = means
    _overlaid(axes[0], film, heat, field)
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
    return _png(figure)


def _overlaid(axes: Any, film: Floats, heat: Floats, lungs: Floats) -> None:
    """A film, the heatmap as opaque as it is strong, and the outline of the lungs."""
    strongest = max(float(heat.max()), 1e-6)
    axes.imshow(film, cmap="gray")
    axes.imshow(heat, cmap="inferno", alpha=np.clip(heat / strongest, 0, 1) * 0.6, vmin=0, vmax=strongest)
    if lungs.min() < 0.5 <= lungs.max():
        axes.contour(lungs, levels=[0.5], colors="#7fe3d4", linewidths=1)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
