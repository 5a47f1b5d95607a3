"""From logits to a probability that can be believed, and from probabilities to Normal, Unsure, Pneumonia."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.package import Calibration, Thresholds
from lungline.settings import TrainSettings

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


def fit_calibration(logits: Floats, labels: Labels) -> Calibration:
    """Platt scaling by Newton's method, with Platt's own smoothed targets, so that a perfect split stays finite."""
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2)).astype(np.float64)
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    weights: Vector = np.array([1.0, 0.0])
    for _ in range(100):
        p: Vector = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient: Vector = design.T @ (p - target) + np.array([1e-3 * (weights[0] - 1), 0.0])
        curvature: Vector = (design * (p * (1 - p))[:, None]).T @ design + np.diag([1e-3, 1e-9])
        step = np.asarray(np.linalg.solve(curvature, gradient), np.float64)
        weights = np.asarray(weights - np.clip(step, -1, 1), np.float64)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        return Calibration()  # worse than chance on val: a falling curve would only hide it
    return Calibration(kind="platt", scale=float(weights[0]), bias=float(weights[1]))


def choose_thresholds(probabilities: Floats, labels: Labels, settings: TrainSettings) -> Thresholds:
    """Thresholds that meet the targets on these pictures with the narrowest Unsure band around the operating point."""
    operating = best_cut(probabilities, labels)
    low, high = operating, operating
    steps = np.unique(np.concatenate([np.asarray(probabilities, float), [operating]]))
    below, above = steps[steps <= operating][::-1], steps[steps >= operating]
    for low in below:
        if np.mean(probabilities[labels == 1] >= low) >= settings.sensitivity:
            break
    for high in above:
        if np.mean(probabilities[labels == 0] < high) >= settings.specificity:
            break
    chosen = (
        f"On {len(labels)} validation pictures: operating point at the best mean of sensitivity and specificity; "
        f"low so that sensitivity outside the Unsure band is at least {settings.sensitivity:g}, "
        f"high so that specificity outside it is at least {settings.specificity:g}."
    )
    return Thresholds(low=float(low), high=float(high), operating=operating, chosen=chosen)


def best_cut(probabilities: Floats, labels: Labels) -> float:
    """The threshold with the best mean of sensitivity and specificity, midway between its neighbours."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    values = np.unique(p)
    cuts = np.concatenate([[0.5], (values[1:] + values[:-1]) / 2])
    score = np.array([np.mean(p[y == 1] >= cut) + np.mean(p[y == 0] < cut) for cut in cuts], dtype=np.float64)
    best = np.flatnonzero(np.isclose(score, np.max(score)))
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])
