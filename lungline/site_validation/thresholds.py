"""Propose thresholds for a site: chosen anew where it has labels, else moved with the risks."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lungline.package.card import Card, Prior, Thresholds
from lungline.settings import TrainSettings
from lungline.site_validation.share import ShareEstimate
from lungline.training.calibration import choose_thresholds, moved

EACH = 50
"""Labelled images of each class from which thresholds are chosen anew; with fewer they would be noise."""

RESAMPLES = 200
NAMES = ("low", "operating", "high")


@dataclass(frozen=True, slots=True)
class ProposedShare:
    """A prior with the estimate that it comes from."""

    prior: Prior
    source: ShareEstimate


class WithInterval(BaseModel):
    """A threshold with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class ProposedThresholds(BaseModel):
    """Thresholds for a site, in risks at its prior.

    The intervals of those chosen from labels are a bootstrap over the images; those of moved ones follow from the
    interval of the share.
    """

    model_config = ConfigDict(frozen=True)

    source: Literal["labels", "moved"]
    low: WithInterval
    operating: WithInterval
    high: WithInterval
    chosen: str

    def thresholds(self) -> Thresholds:
        """The thresholds of a card."""
        return Thresholds(**{name: getattr(self, name).value for name in NAMES}, chosen=self.chosen)


def propose_thresholds(
    card: Card,
    risks: NDArray[np.float64],
    truths: NDArray[np.int64] | None,
    share: ProposedShare,
    settings: TrainSettings,
) -> ProposedThresholds:
    """Thresholds for risks at a prior; `risks` are calibrated and not shifted, `truths` their labels or None."""
    if truths is not None and min(np.bincount(truths, minlength=2)) >= EACH:
        return _chosen_anew(risks, truths, share.prior, settings)
    return _moved(card, share.prior, share.source)


def _chosen_anew(
    risks: NDArray[np.float64], truths: NDArray[np.int64], prior: Prior, settings: TrainSettings
) -> ProposedThresholds:
    best = choose_thresholds(risks, truths, settings, prior=prior)
    random = np.random.default_rng(0)
    sides = [np.flatnonzero(truths == label) for label in (0, 1)]
    drawn: list[Thresholds] = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([random.choice(side, len(side)) for side in sides])
        drawn.append(choose_thresholds(risks[rows], truths[rows], settings, prior=prior))
    ends = {name: np.percentile([getattr(row, name) for row in drawn], [2.5, 97.5]) for name in NAMES}
    values: dict[str, Any] = {
        name: WithInterval(value=getattr(best, name), low=float(ends[name][0]), high=float(ends[name][1]))
        for name in NAMES
    }
    chosen = (
        f"Chosen on {len(truths)} labelled images, {int(truths.sum())} of them positive, by the mean of sensitivity "
        f"and specificity, with an Unsure band as in training for a share of {prior.share:.1%}."
    )
    return ProposedThresholds(source="labels", chosen=chosen, **values)


def _moved(card: Card, prior: Prior, share: ShareEstimate) -> ProposedThresholds:
    """The card's own thresholds for risks at the prior: every image keeps its label."""
    shares = [float(np.clip(value, 1e-3, 1 - 1e-3)) for value in (share.low, share.high)]
    shifts = [prior.model_copy(update={"share": value}).shift - card.shift for value in shares]
    best, *ends = (moved(card.thresholds, shift) for shift in (prior.shift - card.shift, *shifts))
    values: dict[str, Any] = {}
    for name in NAMES:
        value, low, high = (float(getattr(row, name)) for row in (best, *ends))
        values[name] = WithInterval(value=value, low=min(low, value), high=max(high, value))
    chosen = (
        f"Those of version {card.version or 'unknown'}, moved with the risks to a share of {prior.share:.1%}: every "
        "image keeps its label, and sensitivity and specificity stay."
    )
    return ProposedThresholds(source="moved", chosen=chosen, **values)
