"""A site's images against the package's reference, as it is and at the site's share of positives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lungline.monitoring.comparison import Sample, WindowComparison, compare, sample
from lungline.monitoring.reference import Reference
from lungline.package.card import Card
from lungline.site_validation.results import SiteResult, unshifted


class SiteDrift(BaseModel):
    """The site's images against the package's reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plain: WindowComparison
    at_share: WindowComparison | None = Field(
        description="Against as many references positive and negative as the estimated share says: what is left "
        "is more than another share."
    )


def calibrated_share(card: Card, reference: Reference | None) -> float | None:
    """The share of positives that the calibration is for.

    Cards of earlier releases do not say it; Platt scaling makes the mean risk of its images their share.
    """
    if card.prior is not None:
        return card.prior.calibrated
    risks = [risk for risk in reference.scores if risk is not None] if reference else []
    return float(np.clip(np.mean(risks), 1e-3, 1 - 1e-3)) if risks else None


def drift_of(
    card: Card, reference: Reference, results: Sequence[SiteResult], share: float | None, alarm_rate: float
) -> SiteDrift:
    """Compare a site's results with a reference; `share` of positives is that among its images, None if unknown."""
    before, here = reference.sample(), sample(result.compared for result in results)
    calibrated, matched = calibrated_share(card, reference), None
    if calibrated and share is not None:
        matched = compare(at_share(before, card, calibrated, share), here, alarm_rate)
    return SiteDrift(plain=compare(before, here, alarm_rate), at_share=matched)


def at_share(reference: Sample, card: Card, calibrated: float, share: float, seed: int = 0) -> Sample:
    """A part of the reference with that share of positives, by its calibrated risks; refused ones all stay."""
    risks = unshifted(np.nan_to_num(reference.scores, nan=calibrated), card)
    weights = share / calibrated * risks + (1 - share) / (1 - calibrated) * (1 - risks)
    kept = np.random.default_rng(seed).random(len(risks)) * weights.max() < weights
    rows = kept | np.isnan(reference.scores)
    parts: dict[str, Any] = {name: getattr(reference, name)[rows] for name in Sample.__slots__}
    return Sample(**parts)
