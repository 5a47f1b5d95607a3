"""From logits to a probability that can be believed, and from probabilities to Normal, Unsure, Pneumonia."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.package.card import Calibration, Thresholds
from lungline.settings import TrainSettings

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


START = np.array([1.0, 0.0])
PULL = 0.02


def fit_calibration(logits: Floats, labels: Labels) -> Calibration:
    """Platt scaling by Newton's method; a weak pull towards the logits as they are keeps a perfect split finite.

    Not with Platt's smoothed targets: of a hundred normal pictures they take a hundredth from every certainty.
    """
    target = np.asarray(labels, np.float64)
    design = np.stack([logits, np.ones_like(logits)], axis=1).astype(np.float64)
    weights: Vector = START.copy()
    for _ in range(100):
        p: Vector = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient: Vector = design.T @ (p - target) + PULL * (weights - START)
        curvature: Vector = (design * (p * (1 - p))[:, None]).T @ design + PULL * np.eye(2)
        step = np.asarray(np.linalg.solve(curvature, gradient), np.float64)
        weights = np.asarray(weights - np.clip(step, -1, 1), np.float64)
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        return Calibration()  # worse than chance on val: a falling curve would only hide it
    return Calibration(kind="platt", scale=float(weights[0]), bias=float(weights[1]))


def choose_thresholds(
    probabilities: Floats, labels: Labels, settings: TrainSettings, disturbed: Floats | None = None
) -> Thresholds:
    """The narrowest Unsure band around the operating point whose outside meets the targets with room for chance.

    `disturbed` (copies, N) are the probabilities of augmented forms of the same pictures. The operating point lies
    halfway, in log odds, between what is best for the pictures and what is best for these: pictures from elsewhere move
    as these do, and a point that only just clears the plain ones calls many of them wrongly.
    """
    p, sick = np.asarray(probabilities, np.float64), np.asarray(labels) == 1
    forms = p[np.newaxis] if disturbed is None else np.asarray(disturbed, np.float64)
    best = best_cut(p, labels), best_cut(forms.ravel(), np.tile(labels, len(forms)))
    operating = _expit((_logit(best[0]) + _logit(best[1])) / 2)
    low, high = _band(p, sick, operating, settings)
    low, high = _within(p, operating, (low, high), settings.unsure_rate)
    chosen = (
        f"On {len(p)} validation pictures, {np.mean(sick):.0%} of them pneumonia: operating point halfway in log odds "
        f"between the best for the pictures and the best for {len(forms)} augmented forms of each, by the mean of "
        f"sensitivity and specificity; around it the narrowest Unsure band outside which sensitivity is at least "
        f"{settings.sensitivity:g} and specificity {settings.specificity:g} at the low end of a 90 % interval, and "
        f"which holds at most {settings.unsure_rate:.0%} of the pictures."
    )
    return Thresholds(low=low, high=high, operating=operating, chosen=chosen)


def best_cut(probabilities: Floats, labels: Labels) -> float:
    """The threshold with the best mean of sensitivity and specificity; the middle of the stretch that shares it."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    values = np.unique(p)
    cuts = np.concatenate([(values[1:] + values[:-1]) / 2, [0.5]])
    score = np.array([np.mean(p[y == 1] >= cut) + np.mean(p[y == 0] < cut) for cut in cuts], dtype=np.float64)
    best = cuts[np.isclose(score, np.nanmax(score))] if np.isfinite(score).any() else cuts[-1:]
    return float(_expit((_logit(best.min()) + _logit(best.max())) / 2))


def _band(p: Vector, sick: NDArray[np.bool_], operating: float, settings: TrainSettings) -> tuple[float, float]:
    """Low and high; each end moves the other a little, and both move outwards only, so that this settles."""
    values = np.unique(np.concatenate([p, [0.0, 1.0]]))
    cuts = (values[1:] + values[:-1]) / 2  # between pictures
    downwards, upwards = [operating, *cuts[cuts < operating][::-1]], [operating, *cuts[cuts > operating]]
    low = high = operating
    for _ in range(10):
        found = np.sum(p[sick] >= high)
        low = next((c for c in downwards if _holds(found, np.sum(p[sick] < c), settings.sensitivity)), downwards[-1])
        cleared = np.sum(p[~sick] < low)
        high = next((c for c in upwards if _holds(cleared, np.sum(p[~sick] >= c), settings.specificity)), upwards[-1])
    return float(low), float(high)


def _holds(right: Any, wrong: Any, target: float) -> bool:
    """Whether a share of right ones is at least the target at the low end of its 90 % Wilson interval."""
    n, z = int(right) + int(wrong), 1.2816
    if n == 0:
        return True
    share = int(right) / n
    middle = share + z * z / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return bool((middle - reach) / (1 + z * z / n) >= target)


def _within(p: Vector, operating: float, band: tuple[float, float], most: float) -> tuple[float, float]:
    """The band, drawn in towards the operating point until it holds no more than a share of the pictures."""
    centre, ends = _logit(operating), [_logit(end) for end in band]
    for width in np.linspace(1, 0, 101):
        low, high = (float(_expit(centre + (end - centre) * width)) for end in ends)
        if np.mean((p >= low) & (p < high)) <= most:
            return low, high
    return operating, operating


def _logit(p: float) -> float:
    clipped = min(max(float(p), 1e-9), 1 - 1e-9)
    return float(np.log(clipped / (1 - clipped)))


def _expit(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
