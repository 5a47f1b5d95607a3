"""Calibration and thresholds of each finding, where a task has several positive ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.package.answers import probabilities_of
from lungline.package.card import Calibration, FindingModel
from lungline.settings import TrainSettings
from lungline.task.task import Task
from lungline.training.calibration import PRIOR_WEIGHT, choose_prior, choose_thresholds, fit_calibration

Vector = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The network's logits (N, outputs) of the findings, and the calibrated risks (N,) of the same images."""

    logits: Vector
    risks: Vector


def present(labels: Labels, task: Task) -> NDArray[np.int64]:
    """Whether each finding is in each image: 0 or 1, (N, findings)."""
    places = range(len(task.findings))
    return np.array([[int(at in task.present(int(label))) for at in places] for label in labels], np.int64)


def fit_findings(
    task: Task, labels: Labels, settings: TrainSettings, seen: Outputs, copied: Outputs
) -> tuple[FindingModel, ...]:
    """Calibration, prior and thresholds of each positive finding; none for a task with only one.

    `seen` are the outputs for the validation images, `copied` those for augmented copies of all of them, one copy after
    the other.
    """
    if len(task.positives) < 2:
        return ()
    truth = present(labels, task)[:, 1:]
    fits = _shares(seen.logits, truth) if task.kind == "one-of-several" else _alone(seen.logits, truth)
    plain = [(fit, 0.0) for fit in fits]
    chances = probabilities_of(task, plain, seen.logits, seen.risks)
    forms = probabilities_of(task, plain, copied.logits, copied.risks).reshape(-1, *chances.shape)
    return tuple(
        _finding(task, at, fits[at], truth[:, at], (chances[:, at], forms[:, :, at]), settings)
        for at in range(len(task.positives))
    )


def _finding(  # noqa: PLR0917 - the columns of one finding
    task: Task,
    at: int,
    calibration: Calibration,
    truth: NDArray[np.int64],
    chances: tuple[Vector, Vector],
    settings: TrainSettings,
) -> FindingModel:
    finding = task.positives[at]
    # The prevalence of the risk is not that of a finding.
    settings = settings.model_copy(update={"prevalence": None} | finding.targets.model_dump(exclude_none=True))
    # Of one of several, the risk's prior has moved the probability already.
    prior = choose_prior(truth, settings) if task.kind == "many-at-once" else None
    thresholds = choose_thresholds(chances[0], truth, settings, chances[1], prior=prior, name=finding.label.lower())
    return FindingModel(name=finding.name, calibration=calibration, prior=prior, thresholds=thresholds)


def _alone(logits: Vector, truth: NDArray[np.int64]) -> list[Calibration]:
    return [fit_calibration(logits[:, at], truth[:, at]) for at in range(truth.shape[1])]


def _shares(logits: Vector, truth: NDArray[np.int64]) -> list[Calibration]:
    """The shares of the positive findings among themselves, by a softmax of one scale and a bias for each.

    Fitted by Newton's method on the images with one of them; a weak prior towards scale 1 and bias 0 keeps it finite.
    """
    rows = truth.any(axis=1)
    odds, target = logits[rows, 1:], truth[rows].astype(np.float64)
    count = truth.shape[1]
    start: Vector = np.eye(1 + count)[0]
    weights = start
    # How each finding's log odds change with the scale and with the biases: (N, findings, 1 + findings).
    slopes: Vector = np.concatenate(
        [odds[:, :, None], np.broadcast_to(np.eye(count), (len(odds), count, count))], axis=2
    )
    for _ in range(100):
        chances = _softmax(np.asarray(slopes @ weights, np.float64))
        gradient: Vector = np.einsum("nk,nkp->p", chances - target, slopes) + PRIOR_WEIGHT * (weights - start)
        mean: Vector = np.einsum("nk,nkp->np", chances, slopes)
        curvature: Vector = np.einsum("nk,nkp,nkq->pq", chances, slopes, slopes) - mean.T @ mean
        step = np.asarray(np.linalg.solve(curvature + PRIOR_WEIGHT * np.eye(1 + count), gradient), np.float64)
        weights = np.asarray(weights - np.clip(step, -1, 1), np.float64)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:  # worse than chance: an inverted curve would hide it
        weights = start
    return [Calibration(kind="softmax", scale=float(weights[0]), bias=float(bias)) for bias in weights[1:]]


def _softmax(odds: Vector) -> Vector:
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)
