"""Metrics of a model package over scored cases.

Accuracy, sensitivity and specificity use the card's operating point and every image with a prediction; the label Unsure
is for the worklist and excludes nothing. Refused images are counted, not scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import DataError
from lungline.package.answers import UNSURE, Presence
from lungline.package.card import Prior, Thresholds
from lungline.task.reading import default_task
from lungline.task.task import Task

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

ECE_BINS = 15
ABSENT, PRESENT = "absent", "present"
_DECIDED = ("sensitivity_decided", "specificity_decided")
# Measured by lungline.evaluation.shortcuts.
LOOKS = ("heat_inside", "border_auc", "inside_auc")
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Case:
    """The bytes of an image file with its true label, as the task has them: 0 is the negative finding."""

    label: int
    data: bytes
    name: str = ""
    kind: str = "unknown"


@dataclass(frozen=True, slots=True)
class Scored:
    """The prediction for a case; a refused one has a reason and no probability, a doubted one both.

    `label` is 0 for the negative finding and 1 for any other; `truth` is the true label as the task has it, where that
    is another number. `predicted` is the predicted label, `findings` are probability and presence of each of several
    positive findings. `chest` the likeness to a chest X-ray, `side` the shortest
    side in pixels, `heat_inside` the share of the heatmap inside the lungs.
    """

    label: int
    name: str = ""
    kind: str = "unknown"
    probability: float | None = None
    predicted: str = "Refused"
    reason: str | None = None
    chest: float | None = None
    side: int = 0
    heat_inside: float | None = None
    truth: int | None = None
    findings: tuple[tuple[float, Presence], ...] = ()

    @property
    def whole(self) -> int:
        """The true label as the task has it."""
        return self.label if self.truth is None else self.truth


class Interval(BaseModel):
    """A 95 % bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float


class Evaluation(BaseModel):
    """Metrics of a model on a set of images. A metric that the set cannot give, as AUC of one class, is None."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(description="Images with a prediction.")
    refused: int = Field(description="Images refused, which count in no other metric.")
    doubted: int = Field(description="Images with a prediction that are no chest X-ray, or have no lungs to outline.")
    classes: dict[str, int] = Field(description="Images with a prediction, by true class.")
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    ece: float | None = Field(description="Expected calibration error of the probability, 15 bins of equal width.")
    unsure_rate: float | None = Field(description="Share of images labelled Unsure.")
    sensitivity_decided: float | None = Field(description="Sensitivity over images not labelled Unsure.")
    specificity_decided: float | None = Field(description="Specificity over images not labelled Unsure.")
    confusion: dict[str, int] = Field(description="tp, fn, tn, fp at the operating point.")
    per_class: dict[str, dict[str, int]] = Field(description="Predicted labels of each true class.")
    operating: float
    prior: float | None = Field(
        default=None,
        description="Share of positives that images are weighted to for the calibration error; None weights none.",
    )
    intervals: dict[str, Interval]
    heat_inside: float | None = Field(
        default=None, description="Share of the heatmap inside the lungs, in confident positives."
    )
    border_auc: float | None = Field(default=None, description="AUC from the outer border alone.")
    inside_auc: float | None = Field(default=None, description="AUC from the inner part alone.")
    findings: dict[str, float] = Field(
        default_factory=dict, description="Metrics of each of several findings, as lungline.evaluation.finding_metrics."
    )

    def metrics(self) -> dict[str, float]:
        """The scalar metrics that are not None, by name, for MLflow or a model card."""
        names = ("auc", "accuracy", "sensitivity", "specificity", "ece", "unsure_rate", *_DECIDED, *LOOKS)
        values = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in values.items() if value is not None} | self.findings


def summarise(
    scored: Sequence[Scored],
    thresholds: Thresholds,
    *,
    prior: Prior | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    task: Task | None = None,
    sides: tuple[str, str] | None = None,
) -> Evaluation:
    """Metrics of scored cases, with 95 % intervals from `resamples` bootstrap draws (0: none).

    Risks that are shifted to a prior are no frequencies where the share of positives is another: with `prior`, the
    calibration error is that of the same images weighted to its share. `sides` is what images without and with what is
    looked for are called; by default as the task calls them.

    Raises DataError when every case was refused.
    """
    valid = [case for case in scored if case.probability is not None]
    if not valid:
        raise DataError(f"All {len(scored)} images were refused, so there are no metrics.")
    labels = np.array([case.label for case in valid])
    probabilities = np.array([case.probability for case in valid], dtype=np.float64)
    task = task or default_task()
    labelled = risk_labels(task) if sides is None else (ABSENT, UNSURE, PRESENT)
    sides = sides or _sides(task)
    predicted = np.array([_answer(case.predicted, task) for case in valid])
    share = prior and prior.target
    cut = thresholds.operating, share
    metrics = _metrics(labels, probabilities, predicted, cut)
    positive = probabilities >= thresholds.operating
    return Evaluation(
        n=len(valid),
        refused=len(scored) - len(valid),
        doubted=sum(case.reason is not None for case in valid),
        classes={name: int(np.sum(labels == at)) for at, name in enumerate(sides)},
        confusion={
            "tp": int(np.sum(positive & (labels == 1))),
            "fn": int(np.sum(~positive & (labels == 1))),
            "tn": int(np.sum(~positive & (labels == 0))),
            "fp": int(np.sum(positive & (labels == 0))),
        },
        per_class={
            name: {
                label: int(np.sum(predicted[labels == index] == answer))
                for label, answer in zip(labelled, (ABSENT, UNSURE, PRESENT), strict=True)
            }
            for index, name in enumerate(sides)
        },
        operating=thresholds.operating,
        prior=share,
        intervals=_intervals(labels, probabilities, predicted, cut, (seed, resamples)),
        **cast("dict[str, Any]", metrics),
    )


def risk_labels(task: Task) -> tuple[str, str, str]:
    """What the answers absent, unsure and present of the risk are called."""
    return task.negative.label, UNSURE, task.labels[1] if task.kind == "binary" else "Positive"


def _sides(task: Task) -> tuple[str, str]:
    """What images without and with a positive finding are called."""
    return task.names[0], task.names[1] if task.kind == "binary" else "POSITIVE"


def _answer(predicted: str, task: Task) -> str:
    """The answer of the risk in a predicted label: absent, Unsure or present."""
    if predicted in (UNSURE, ABSENT, PRESENT):
        return predicted
    return ABSENT if predicted == task.negative.label else PRESENT


def auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative; ties count half. nan for one."""
    positives = np.asarray(labels) == 1
    count = int(positives.sum())
    others = len(positives) - count
    if not count or not others:
        return float("nan")
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    return float((ranks[positives].sum() - count * (count + 1) / 2) / (count * others))


def ece(labels: Labels, probabilities: Floats, bins: int = ECE_BINS, share: float | None = None) -> float:
    """Expected calibration error: mean distance of probability and frequency over bins of equal width.

    With `share`, images are weighted so that this share of them is positive.
    """
    place = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    weights = weights_for(labels, share)
    gaps = np.bincount(place, weights * (np.asarray(probabilities) - np.asarray(labels)), minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def weights_for(labels: Labels, share: float | None) -> NDArray[np.float64]:
    """The weight of each image so that a share of the whole is positive; 1 without a share, or for one class."""
    sick = np.asarray(labels) == 1
    now = float(np.count_nonzero(sick)) / max(1, len(sick))
    if share is None or not 0 < now < 1:
        return np.ones(len(sick))
    return np.where(sick, share / now, (1 - share) / (1 - now))


def share(condition: NDArray[np.bool_], within: NDArray[np.bool_] | None = None) -> float:
    """Share of True, within a subset if given; nan for an empty set."""
    chosen = condition if within is None else condition[within]
    return float(np.mean(chosen)) if len(chosen) else float("nan")


def _metrics(
    labels: Labels, probabilities: Floats, predicted: NDArray[Any], cut: tuple[float, float | None]
) -> dict[str, float | None]:
    """`cut` is the operating point with the share of positives that the calibration error is for."""
    operating, prior = cut
    positive, sick = probabilities >= operating, labels == 1
    decided = predicted != UNSURE
    values = {
        "auc": auc(labels, probabilities),
        "accuracy": share(positive == sick),
        "sensitivity": share(positive, sick),
        "specificity": share(~positive, ~sick),
        "ece": ece(labels, probabilities, share=prior),
        "unsure_rate": share(~decided),
        "sensitivity_decided": share(predicted == PRESENT, sick & decided),
        "specificity_decided": share(predicted == ABSENT, ~sick & decided),
    }
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _intervals(
    labels: Labels,
    probabilities: Floats,
    predicted: NDArray[Any],
    cut: tuple[float, float | None],
    draws: tuple[int, int],
) -> dict[str, Interval]:
    """Stratified by class, so that each resample keeps the prevalence."""
    seed, resamples = draws
    random = np.random.default_rng(seed)
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = np.concatenate([random.choice(side, len(side)) for side in sides if len(side)])
        for name, value in _metrics(labels[rows], probabilities[rows], predicted[rows], cut).items():
            if value is not None:
                drawn.setdefault(name, []).append(value)
    ends = {name: np.percentile(values, [2.5, 97.5]) for name, values in drawn.items()}
    return {name: Interval(low=float(low), high=float(high)) for name, (low, high) in ends.items()}
