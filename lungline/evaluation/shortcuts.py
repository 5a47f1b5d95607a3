"""Whether a model looks at the lungs: where its heat lies, and what it can tell from the border or the inside alone.

A model that reads how a child lies or how the film is framed scores well from the outer border alone, where no lung can
be judged. Such a model is right here and wrong elsewhere.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation.concurrency import in_order
from lungline.evaluation.metrics import Case, auc
from lungline.imaging.image import Limits
from lungline.imaging.lungs import heat_within
from lungline.package.card import shifted
from lungline.package.package import Package, Prediction

Pixels = NDArray[np.uint8]

# Shares of width and height: the inner part that is painted over for the border, and the one that is kept for the
# inside.
BORDER_WITHOUT, INSIDE = 0.6, 0.7
# Risk, without a prior's shift, from which a positive counts as confident: a map of a low risk locates nothing.
CONFIDENT = 0.9


class Shortcuts(BaseModel):
    """What a model's answers rest on. A value that the images cannot give is None."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(description="Images measured.")
    heat_inside: float | None = Field(description="Mean share of the heatmap inside the lungs, confident positives.")
    strongest_inside: float | None = Field(description="Share of those whose strongest spot is inside the lungs.")
    lung_area: float | None = Field(description="Share of the image that is lung in those: heat spread by chance.")
    border_auc: float | None = Field(description="AUC with the inner 60 % by 60 % painted over in grey.")
    inside_auc: float | None = Field(description="AUC with all but the inner 70 % by 70 % painted over in grey.")


def measure(
    package: Package,
    cases: Iterable[Case],
    limits: Limits | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Shortcuts:
    """Diagnose each case as it is, without its middle and without its border; refused ones are left out."""
    diagnoser = Diagnoser(package, limits or Limits())
    labels: list[int] = []
    risks: list[tuple[float, float]] = []
    heats: list[tuple[float, bool, float]] = []
    for look in in_order(lambda case: _look(diagnoser, case), cases):
        if look is None:
            continue
        label, risk, heat = look
        labels.append(label)
        risks.append(risk)
        heats += [heat] if heat else []
        if on_progress:
            on_progress(len(labels))
    return _summarised(labels, risks, heats)


def _look(diagnoser: Diagnoser, case: Case) -> tuple[int, tuple[float, float], tuple[float, bool, float] | None] | None:
    """Label, risks by border and by inside alone, and where the heat of a confident positive lies; None if refused."""
    package = diagnoser.package
    diagnosis = diagnoser.diagnose(case.data, heatmap=False, statistics=False)
    prediction = diagnosis.prediction
    if diagnosis.image is None or prediction is None:
        return None
    pixels = package.card.preparation.resize(diagnosis.image)
    risks = _risk(package, border_only(pixels)), _risk(package, inside_only(pixels))
    confident = shifted(prediction.probability, -package.card.shift) >= CONFIDENT
    located = case.label > 0 and confident and prediction.lungs is not None
    return int(case.label > 0), risks, heat_of(prediction) if located else None


def _summarised(
    labels: list[int], risks: list[tuple[float, float]], heats: list[tuple[float, bool, float]]
) -> Shortcuts:
    truth = np.array(labels, np.int64)
    areas = [auc(truth, np.array([pair[at] for pair in risks])) if risks else float("nan") for at in (0, 1)]
    border, inside = (None if np.isnan(area) else area for area in areas)
    heat, strongest, area = (float(np.mean(column)) for column in zip(*heats, strict=True)) if heats else (None,) * 3
    return Shortcuts(
        n=len(labels),
        heat_inside=heat,
        strongest_inside=strongest,
        lung_area=area,
        border_auc=border,
        inside_auc=inside,
    )


def heat_of(prediction: Prediction, field: NDArray[np.float32] | None = None) -> tuple[float, bool, float]:
    """Share of the heat inside the lungs, whether its strongest spot is there, and the lungs' share of the image.

    `field` (h, w) in 0..1 are the lungs to compare with; by default those that the model itself found.
    """
    lungs = prediction.lungs if field is None else field
    if lungs is None:
        raise ValueError("the model has no lung field, and none was given")
    return heat_within(prediction.cam, lungs)


def border_only(film: Pixels) -> Pixels:
    """The image with its inner 60 % by 60 % painted in the mean grey of the rest: that of the whole tells of both."""
    hidden = _inner(film, BORDER_WITHOUT)
    return np.where(hidden, np.uint8(round(float(film[~hidden].mean()))), film)


def inside_only(film: Pixels) -> Pixels:
    """The inner 70 % by 70 % of the image; the rest is painted in the mean grey of that part."""
    kept = _inner(film, INSIDE)
    return np.where(kept, film, np.uint8(round(float(film[kept].mean()))))


def _inner(film: Pixels, share: float) -> NDArray[np.bool_]:
    """A mask of the middle part of an image, of this share of its width and height."""
    height, width = film.shape
    top, left = (round(side * (1 - share) / 2) for side in film.shape)
    mask = np.zeros(film.shape, bool)
    mask[top : height - top, left : width - left] = True
    return mask


def _risk(package: Package, pixels: Pixels) -> float:
    """The risk of network input that was painted over: painted margins of a file would be cut instead."""
    return package.predict(package.card.preparation.normalise(pixels)[np.newaxis])[0].probability
