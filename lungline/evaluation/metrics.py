"""Figures of a model package, measured on the path that serving takes: decode, prepare, predict.

Accuracy, sensitivity and specificity are taken at the card's operating point, over every picture that could be judged;
Unsure is a label for the worklist and does not take a picture out of them. Refused pictures are counted, not scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import DataError
from lungline.package.card import Thresholds
from lungline.package.package import NOT_A_CHEST

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

ECE_BINS = 15
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Case:
    """A picture as its file's bytes, with the truth: label 0 is normal, 1 pneumonia."""

    label: int
    data: bytes
    name: str = ""
    kind: str = "unknown"


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a case; a refused one has a reason and no probability."""

    label: int
    name: str = ""
    kind: str = "unknown"
    probability: float | None = None
    called: str = "Refused"
    reason: str | None = None
    chest: float | None = None
    side: int = 0


class Interval(BaseModel):
    """A 95 % bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float


class Evaluation(BaseModel):
    """Figures of a model on a set of pictures. A figure is None where the set cannot give it, as AUC of one class."""

    model_config = ConfigDict(frozen=True)

    n: int = Field(description="Pictures judged.")
    refused: int = Field(description="Pictures refused, which are in no other figure.")
    doubted: int = Field(description="Pictures judged but not taken for a chest X-ray.")
    classes: dict[str, int] = Field(description="Pictures judged of each class.")
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    ece: float | None = Field(description="Expected calibration error of the probability, 15 bins of equal width.")
    unsure_rate: float | None = Field(description="Share of pictures in the Unsure band.")
    sensitivity_decided: float | None = Field(description="Sensitivity outside the Unsure band.")
    specificity_decided: float | None = Field(description="Specificity outside the Unsure band.")
    confusion: dict[str, int] = Field(description="tp, fn, tn, fp at the operating point.")
    per_class: dict[str, dict[str, int]] = Field(description="How the pictures of each class were labelled.")
    operating: float
    intervals: dict[str, Interval]

    def figures(self) -> dict[str, float]:
        """The single numbers, by name, for a tracking server or a model card."""
        names = ("auc", "accuracy", "sensitivity", "specificity", "ece", "unsure_rate")
        values = {name: getattr(self, name) for name in (*names, "sensitivity_decided", "specificity_decided")}
        return {name: float(value) for name, value in values.items() if value is not None}


def summarise(
    scored: Sequence[Scored], thresholds: Thresholds, *, seed: int = 0, resamples: int = RESAMPLES
) -> Evaluation:
    """Figures of scored cases, with intervals unless `resamples` is 0. Raises DataError when there are none to take."""
    judged = [one for one in scored if one.probability is not None]
    if not judged:
        raise DataError(f"None of the {len(scored)} pictures could be judged, so there are no figures.")
    labels = np.array([one.label for one in judged])
    probabilities = np.array([one.probability for one in judged], dtype=np.float64)
    called = np.array([one.called for one in judged])
    figures = _figures(labels, probabilities, called, thresholds.operating)
    positive = probabilities >= thresholds.operating
    return Evaluation(
        n=len(judged),
        refused=len(scored) - len(judged),
        doubted=sum(one.reason == NOT_A_CHEST for one in judged),
        classes={"NORMAL": int(np.sum(labels == 0)), "PNEUMONIA": int(np.sum(labels == 1))},
        confusion={
            "tp": int(np.sum(positive & (labels == 1))),
            "fn": int(np.sum(~positive & (labels == 1))),
            "tn": int(np.sum(~positive & (labels == 0))),
            "fp": int(np.sum(positive & (labels == 0))),
        },
        per_class={
            name: {label: int(np.sum(called[labels == index] == label)) for label in ("Normal", "Unsure", "Pneumonia")}
            for index, name in enumerate(("NORMAL", "PNEUMONIA"))
        },
        operating=thresholds.operating,
        intervals=_intervals(labels, probabilities, called, thresholds.operating, (seed, resamples)),
        **figures,
    )


def auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve: the chance that a pneumonia outranks a normal, ties counting half; nan of one class."""
    positives = np.asarray(labels) == 1
    count = int(positives.sum())
    others = len(positives) - count
    if not count or not others:
        return float("nan")
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    return float((ranks[positives].sum() - count * (count + 1) / 2) / (count * others))


def ece(labels: Labels, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean distance of probability and frequency over bins of equal width."""
    place = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    gaps = np.bincount(place, np.asarray(probabilities) - np.asarray(labels), minlength=bins)
    return float(np.abs(gaps).sum() / len(place))


def share(condition: NDArray[np.bool_], within: NDArray[np.bool_] | None = None) -> float:
    """Share of True, within a subset when one is given; nan of an empty set."""
    chosen = condition if within is None else condition[within]
    return float(np.mean(chosen)) if len(chosen) else float("nan")


def _figures(labels: Labels, probabilities: Floats, called: NDArray[Any], operating: float) -> dict[str, float | None]:
    positive, sick = probabilities >= operating, labels == 1
    decided = called != "Unsure"
    figures = {
        "auc": auc(labels, probabilities),
        "accuracy": share(positive == sick),
        "sensitivity": share(positive, sick),
        "specificity": share(~positive, ~sick),
        "ece": ece(labels, probabilities),
        "unsure_rate": share(~decided),
        "sensitivity_decided": share(called == "Pneumonia", sick & decided),
        "specificity_decided": share(called == "Normal", ~sick & decided),
    }
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def _intervals(
    labels: Labels, probabilities: Floats, called: NDArray[Any], operating: float, draws: tuple[int, int]
) -> dict[str, Interval]:
    """Stratified by class, so that each resample keeps the prevalence."""
    seed, resamples = draws
    random = np.random.default_rng(seed)
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = np.concatenate([random.choice(side, len(side)) for side in sides if len(side)])
        for name, value in _figures(labels[rows], probabilities[rows], called[rows], operating).items():
            if value is not None:
                drawn.setdefault(name, []).append(value)
    ends = {name: np.percentile(values, [2.5, 97.5]) for name, values in drawn.items()}
    return {name: Interval(low=float(low), high=float(high)) for name, (low, high) in ends.items()}
