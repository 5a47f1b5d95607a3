"""Propose a prior and thresholds for a site."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lungline.package.card import Card, Prior, shifted
from lungline.settings import TrainSettings
from lungline.site_validation.results import SiteResult, counted, risks_of, unshifted
from lungline.site_validation.share import ShareEstimate
from lungline.site_validation.thresholds import ProposedShare, ProposedThresholds, propose_thresholds


class SiteProposal(BaseModel):
    """Prior and thresholds for the site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: Prior
    source: ShareEstimate
    thresholds: ProposedThresholds
    labels: dict[str, int] = Field(description="The site's images by label, with the proposal.")
    ppv: float | None = Field(description="Share of positives among images at or above the operating point.")
    npv: float | None = Field(description="Share of normal ones among images below it.")


def propose_prior(site: str, calibrated: float, source: ShareEstimate, images: int) -> Prior:
    """The prior from an estimate of the share, half an image away from none and all; a given share stays as it is."""
    share = source.value if source.method == "given" else float(np.clip(source.value, 0.5 / images, 1 - 0.5 / images))
    return Prior(calibrated=calibrated, share=share, chosen=_chosen(site, source))


def propose(
    card: Card, results: Sequence[SiteResult], prior: Prior, source: ShareEstimate, settings: TrainSettings
) -> SiteProposal:
    """Thresholds for the prior, and what they mean at the site."""
    predicted = [row for row in results if row.compared.probability is not None]
    certain = [row for row in predicted if not row.doubted]
    labelled = all(row.truth is not None for row in certain)
    truths = np.array([row.truth for row in certain], np.int64) if labelled else None
    risks = unshifted(risks_of(certain), card)
    proposed = propose_thresholds(card, risks, truths, ProposedShare(prior, source), settings)
    shift = prior.shift - card.shift
    after = [row.at(shift, proposed.thresholds(), card.task) for row in results]
    rates = _rates(card, certain, shift, proposed)
    ppv, npv = _predictive(prior.share, *rates) if rates else (None, None)
    return SiteProposal(prior=prior, source=source, thresholds=proposed, labels=counted(after), ppv=ppv, npv=npv)


def _chosen(site: str, source: ShareEstimate) -> str:
    how = {
        "given": "given by a person",
        "counted": f"counted in {source.images} labelled images",
        "em": f"estimated from {source.images} unlabelled images by maximum likelihood (EM)",
        "bbse": f"estimated from {source.images} unlabelled images by black-box shift estimation",
    }[source.method]
    interval = "" if source.method == "given" else f", 95 % interval {source.low:.1%} to {source.high:.1%}"
    return f"Site {site}: {how}{interval}."


def _rates(
    card: Card, certain: Sequence[SiteResult], shift: float, proposed: ProposedThresholds
) -> tuple[float, float] | None:
    """Sensitivity and specificity at the proposed operating point: of the site's labels, else of the test split."""
    if proposed.source == "labels":
        risks = np.array([shifted(float(risk), shift) for risk in risks_of(certain)])
        sick = np.array([row.truth == 1 for row in certain])
        positive = risks >= proposed.operating.value
        return float(np.mean(positive[sick])), float(np.mean(~positive[~sick]))
    rates = card.metrics.get("sensitivity"), card.metrics.get("specificity")
    return None if rates[0] is None or rates[1] is None else (rates[0], rates[1])


def _predictive(share: float, sensitivity: float, specificity: float) -> tuple[float | None, float | None]:
    hits, alarms = share * sensitivity, (1 - share) * (1 - specificity)
    cleared, misses = (1 - share) * specificity, share * (1 - sensitivity)
    return (
        hits / (hits + alarms) if hits + alarms else None,
        cleared / (cleared + misses) if cleared + misses else None,
    )
