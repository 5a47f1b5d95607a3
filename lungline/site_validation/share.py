"""Estimate the share of positives among unlabelled images, with intervals.

Both methods assume that only the share differs from the model's own data, and that the images of each class look alike:

    em      the share with the largest likelihood of the calibrated risks, which the EM algorithm of Saerens, Latinne
            and Decaestecker (2002, Neural Computation 14) climbs to; the likelihood is concave, so bisection gets
            there too, also where EM becomes slow, at a share near 0 or 1
    bbse    black-box shift estimation (Lipton, Wang and Smola 2018): the share of positive answers, corrected by the
            sensitivity and specificity of the test split

The first is sharper; the second does not depend on calibration. Where they disagree, the assumption does not hold.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.package.card import Calibration, log_odds

RESAMPLES = 1000
_STEPS = 40  # of bisection: the share to 1e-12
_LEAST, _MOST = 1e-6, 1 - 1e-6

Method = Literal["counted", "given", "em", "bbse"]
Vector = NDArray[np.float64]
Weights = NDArray[np.float64]


class ShareEstimate(BaseModel):
    """A share of positives with its 95 % interval; a given one has no interval of its own."""

    model_config = ConfigDict(frozen=True)

    method: Method
    value: float
    low: float
    high: float
    images: int = Field(description="Images that it rests on.")

    def apart_from(self, other: "ShareEstimate") -> float:
        """The gap between the two intervals; 0 where they overlap."""
        return max(0.0, other.low - self.high, self.low - other.high)


def resampled(patients: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0) -> Weights:
    """How often each image is drawn (resamples, images): bootstrap draws of patients, with all of their images."""
    owners = np.unique(patients, return_inverse=True)[1]
    count = int(owners.max(initial=-1)) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws[:, owners].astype(np.float64)


def em(
    risks: Vector,
    calibrated: float,
    patients: NDArray[np.int64],
    calibration: Calibration | None = None,
    seed: int = 0,
) -> ShareEstimate:
    """The share by maximum likelihood, from risks that are calibrated where the share is `calibrated`.

    The interval is that of a bootstrap over patients, which also draws the calibration where its uncertainty is known,
    joined with that of the likelihood: at the end of the range, where all draws may agree, only the latter has a width.
    """
    ratios = likelihood_ratios(risks, calibrated)
    value = float(_maximum(ratios, np.ones((1, len(ratios))))[0])
    uncertain = _drawn_ratios(ratios, calibrated, calibration, seed)
    bootstrap = np.percentile(_maximum(uncertain, resampled(patients, seed=seed)), [2.5, 97.5])
    # Images of one patient tell less than as many patients would.
    low, high = _likely(ratios, len(np.unique(patients)) / len(patients))
    return ShareEstimate(
        method="em",
        value=value,
        low=min(low, float(bootstrap[0])),
        high=max(high, float(bootstrap[1])),
        images=len(risks),
    )


def _drawn_ratios(ratios: Vector, calibrated: float, calibration: Calibration | None, seed: int) -> Weights:
    """The likelihood ratios (resamples, images) with the calibration drawn anew for each resample."""
    if calibration is None or calibration.uncertainty is None:
        return ratios[np.newaxis]
    scale, both, bias = calibration.uncertainty
    mean = (calibration.scale, calibration.bias)
    draws = np.random.default_rng(seed).multivariate_normal(mean, [[scale, both], [both, bias]], RESAMPLES)
    start = log_odds(calibrated)
    logits = (np.log(ratios) + start - calibration.bias) / calibration.scale
    odds = np.maximum(draws[:, :1], 0.0) * logits + draws[:, 1:] - start
    return np.exp(np.clip(odds, -20, 20))


def _likely(ratios: Vector, independent: float) -> tuple[float, float]:
    """The shares whose log likelihood is at most 1.92 below the largest: a 95 % interval."""
    shares = np.linspace(_LEAST, _MOST, 1001)
    likelihood = np.array([np.log1p(share * (ratios - 1)).sum() for share in shares]) * independent
    inside = shares[likelihood >= likelihood.max() - 1.92]
    return float(inside[0]), float(inside[-1])


def likelihood_ratios(risks: Vector, calibrated: float) -> Vector:
    """How much more likely each image is that is positive than that is not."""
    clipped = np.clip(risks, 1e-9, 1 - 1e-9)
    return clipped / (1 - clipped) * (1 - calibrated) / calibrated


def _maximum(ratios: Vector, weights: Weights) -> Vector:
    """The share with the largest likelihood, for each row of weights: where the slope crosses 0.

    `ratios` are (images,), or (rows, images) where each row has its own.
    """
    low, high = np.full(len(weights), _LEAST), np.full(len(weights), _MOST)
    for _ in range(_STEPS):
        share = (low + high) / 2
        slope = (weights * ((ratios - 1) / (share[:, None] * (ratios - 1) + 1))).sum(axis=1)
        low, high = np.where(slope > 0, share, low), np.where(slope > 0, high, share)
    return (low + high) / 2


def bbse(
    positive: NDArray[np.bool_], confusion: Mapping[str, int], patients: NDArray[np.int64], seed: int = 0
) -> ShareEstimate | None:
    """The share from positive answers at the operating point, and the confusion matrix of the test split.

    The interval also has the matrix's own uncertainty. None where the matrix is missing, lacks a class, or says that
    the answers are no better than chance.
    """
    counts = np.array([confusion.get(name, 0) for name in ("tp", "fn", "fp", "tn")], np.float64)
    sick, well = counts[:2].sum(), counts[2:].sum()
    if not sick or not well or counts[0] / sick <= counts[2] / well:
        return None
    random = np.random.default_rng(seed)
    weights = resampled(patients, seed=seed)
    drawn = weights @ positive / weights.sum(axis=1)
    # Jeffreys' interval: a matrix without an error is no proof that there are none.
    rates = [random.beta(right + 0.5, wrong + 0.5, RESAMPLES) for right, wrong in (counts[:2], counts[2:])]
    low, high = np.percentile(_corrected(drawn, *rates), [2.5, 97.5])
    value = _corrected(np.mean(positive), counts[0] / sick, counts[2] / well)
    return ShareEstimate(method="bbse", value=float(value), low=float(low), high=float(high), images=len(positive))


def _corrected(positive: Any, sensitivity: Any, false_rate: Any) -> Any:
    return np.clip((positive - false_rate) / np.maximum(sensitivity - false_rate, 1e-3), 0, 1)
