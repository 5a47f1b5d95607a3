"""Calibrate logits to probabilities, choose the prior, and the thresholds between absent, Unsure and present."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.evaluation.metrics import weights_for
from lungline.package.card import Calibration, Prior, Thresholds, log_odds, shifted
from lungline.settings import TrainSettings

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


PRIOR = np.array([1.0, 0.0])
PRIOR_WEIGHT = 0.02


def fit_calibration(logits: Floats, labels: Labels) -> Calibration:
    """Platt scaling by Newton's method; a weak prior towards scale 1, bias 0 keeps it finite when the classes separate.

    Without Platt's smoothed targets: with a hundred normal images they would shift every probability by a hundredth.
    """
    target = np.asarray(labels, np.float64)
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    weights: Vector = PRIOR.copy()
    curvature: Vector = PRIOR_WEIGHT * np.eye(2)
    for _ in range(100):
        p: Vector = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient: Vector = design.T @ (p - target) + PRIOR_WEIGHT * (weights - PRIOR)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + PRIOR_WEIGHT * np.eye(2)
        step = np.asarray(np.linalg.solve(curvature, gradient), np.float64)
        weights = np.asarray(weights - np.clip(step, -1, 1), np.float64)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        return Calibration()  # worse than chance on val: an inverted curve would hide it
    uncertainty = _uncertainty(np.asarray(np.linalg.inv(curvature), np.float64), target)
    return Calibration(kind="platt", scale=float(weights[0]), bias=float(weights[1]), uncertainty=uncertainty)


def _uncertainty(covariance: Vector, target: Vector) -> tuple[float, float, float]:
    """The covariance of scale and bias as if the share of positives had been fixed.

    What the share itself adds to the variance of the bias is 1/positives + 1/negatives (Prentice and Pyke 1979).
    """
    (scale, both), (_, bias) = covariance.tolist()
    sick = min(max(float(target.sum()), 0.5), len(target) - 0.5)
    fixed = bias - 1 / sick - 1 / (len(target) - sick)
    return scale, both, max(fixed, both * both / scale)


def choose_prior(labels: Labels, settings: TrainSettings) -> Prior:
    """The prior of a card: `train.prevalence`, or the share of positives in the images of the calibration."""
    share = share_of(labels)
    if settings.prevalence is None:
        return Prior(calibrated=share, share=share, chosen=f"The share in {len(labels)} validation images.")
    return Prior(calibrated=share, share=settings.prevalence, chosen="Set as train.prevalence.")


def share_of(labels: Labels) -> float:
    """The share of positives, half an image away from none and all: neither has log odds."""
    count, sick = max(1, len(labels)), int(np.count_nonzero(np.asarray(labels) == 1))
    return min(max(sick, 0.5), count - 0.5) / count


def choose_thresholds(
    probabilities: Floats,
    labels: Labels,
    settings: TrainSettings,
    disturbed: Floats | None = None,
    *,
    prior: Prior | None = None,
    name: str = "positive",
) -> Thresholds:
    """The narrowest Unsure band around the operating point outside which the targets hold with statistical margin.

    `disturbed` (copies, N) are the probabilities of augmented copies of the same images. The operating point lies
    halfway, in log odds, between the best for the images and the best for the copies: images from elsewhere shift as
    the copies do, and a point that barely separates the originals would misclassify many of them.

    Probabilities are without the prior's shift. Sensitivity and specificity do not depend on the share of positives, so
    with a prior the same images are chosen for each label, except that the band's limit holds for the prior's share;
    the thresholds themselves move with the risks. `name` is what positives are called in the sentence.
    """
    p, sick = np.asarray(probabilities, np.float64), np.asarray(labels) == 1
    forms = p[np.newaxis] if disturbed is None else np.asarray(disturbed, np.float64)
    best = best_cut(p, labels), best_cut(forms.ravel(), np.tile(labels, len(forms)))
    operating = _expit((log_odds(best[0]) + log_odds(best[1])) / 2)
    low, high = _band(p, sick, operating, settings)
    weights = weights_for(labels, prior and prior.target)
    low, high = _within(p, operating, (low, high), settings.unsure_rate, weights)
    chosen = (
        f"On {len(p)} validation images, {np.mean(sick):.0%} of them {name}: operating point halfway in log odds "
        f"between the best for the images and the best for {len(forms)} augmented copies of each, by the mean of "
        f"sensitivity and specificity; around it the narrowest Unsure band outside which sensitivity is at least "
        f"{settings.sensitivity:g} and specificity {settings.specificity:g} at the low end of a 90 % interval, and "
        f"which holds at most {settings.unsure_rate:.0%} of the images{_at(prior, name)}."
    )
    return moved(Thresholds(low=low, high=high, operating=operating, chosen=chosen), prior.shift if prior else 0.0)


def moved(thresholds: Thresholds, shift: float) -> Thresholds:
    """The thresholds of risks that were shifted in log odds; every image keeps its label."""
    if not shift:
        return thresholds
    ends = {name: shifted(getattr(thresholds, name), shift) for name in ("low", "high", "operating")}
    return thresholds.model_copy(update=ends)


def _at(prior: Prior | None, name: str) -> str:
    return f", at a share of {prior.share:.1%} {name}" if prior and prior.shift else ""


def best_cut(probabilities: Floats, labels: Labels) -> float:
    """The threshold with the best mean of sensitivity and specificity; the middle of the range that reaches it."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    values = np.unique(p)
    cuts = np.concatenate([(values[1:] + values[:-1]) / 2, [0.5]])
    sick, well = np.sort(p[y == 1]), np.sort(p[y == 0])
    if not len(sick) or not len(well):
        return 0.5
    missed, cleared = (np.searchsorted(side, cuts) / len(side) for side in (sick, well))
    score = 1 - missed + cleared
    best = cuts[np.isclose(score, score.max())]
    return float(_expit((log_odds(best.min()) + log_odds(best.max())) / 2))


def _band(p: Vector, sick: NDArray[np.bool_], operating: float, settings: TrainSettings) -> tuple[float, float]:
    """Low and high thresholds. Each depends on the other; both only move outwards, so the iteration converges."""
    values = np.unique(np.concatenate([p, [0.0, 1.0]]))
    cuts = (values[1:] + values[:-1]) / 2  # between the values of images
    downwards, upwards = [operating, *cuts[cuts < operating][::-1]], [operating, *cuts[cuts > operating]]
    low = high = operating
    for _ in range(10):
        detected = np.sum(p[sick] >= high)
        low = next((c for c in downwards if _holds(detected, np.sum(p[sick] < c), settings.sensitivity)), downwards[-1])
        cleared = np.sum(p[~sick] < low)
        high = next((c for c in upwards if _holds(cleared, np.sum(p[~sick] >= c), settings.specificity)), upwards[-1])
    return float(low), float(high)


def _holds(right: Any, wrong: Any, target: float) -> bool:
    """Whether the share of correct ones reaches the target at the low end of its 90 % Wilson interval."""
    n, z = int(right) + int(wrong), 1.2816
    if n == 0:
        return True
    share = int(right) / n
    middle = share + z * z / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return bool((middle - reach) / (1 + z * z / n) >= target)


def _within(
    p: Vector, operating: float, band: tuple[float, float], most: float, weights: Vector
) -> tuple[float, float]:
    """The band, narrowed towards the operating point until it holds at most the share `most` of the images."""
    centre, ends = log_odds(operating), [log_odds(end) for end in band]
    for width in np.linspace(1, 0, 101):
        low, high = (float(_expit(centre + (end - centre) * width)) for end in ends)
        if np.average((p >= low) & (p < high), weights=weights) <= most:
            return low, high
    return operating, operating


def _expit(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
