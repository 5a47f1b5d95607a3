"""Validate a model at a site: diagnose its images as serving does, measure, compare, estimate, propose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lungline.errors import DataError
from lungline.evaluation.metrics import Evaluation, ece, summarise
from lungline.monitoring.findings import proportion
from lungline.monitoring.reference import Reference
from lungline.package.card import Calibration, Card, shifted
from lungline.package.package import Package
from lungline.settings import Settings
from lungline.site_validation.drift import SiteDrift, calibrated_share, drift_of
from lungline.site_validation.images import LEAST, SiteImages
from lungline.site_validation.proposal import SiteProposal, propose, propose_prior
from lungline.site_validation.results import SiteResult, counted, diagnose_site, risks_of, unshifted
from lungline.site_validation.share import ShareEstimate, bbse, em
from lungline.training.calibration import fit_calibration


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SiteCalibration(_Part):
    """Calibration on the site's labelled images."""

    ece: float = Field(description="Expected calibration error of the risks as they are.")
    ece_proposed: float | None = Field(description="The same of the risks at the proposed prior.")
    scale: float = Field(description="Slope of the risks' log odds in a fit to the labels; 1 needs no change.")
    bias: float = Field(description="Intercept of that fit; 0 needs no change.")


class SiteValidation(_Part):
    """How a model does at a site, and what is proposed for it."""

    schema_version: Literal[1] = 1
    site: str
    model: str = Field(description="The version, or the sha256 of a package without one.")
    sha256: str
    synthetic: bool
    labelled: bool
    images: int
    labels: dict[str, int] = Field(description="Images by label, with the model's own prior and thresholds.")
    doubted: int = Field(description="Images with a prediction that are Unsure whatever their risk.")
    evaluation: Evaluation | None = Field(description="Metrics with the site's labels.")
    calibration: SiteCalibration | None
    drift: SiteDrift | None = Field(description="None for a package without a reference.")
    shares: tuple[ShareEstimate, ...]
    proposal: SiteProposal | None
    warnings: tuple[str, ...]

    @property
    def predicted(self) -> int:
        """Images with a prediction."""
        return self.images - self.labels["Refused"]

    def share(self, method: str) -> ShareEstimate | None:
        """The estimate of one method."""
        return next((share for share in self.shares if share.method == method), None)


@dataclass(frozen=True)
class Validated:
    """A validation with the single results, which the reference of a version for the site is made of."""

    validation: SiteValidation
    results: tuple[SiteResult, ...]


def validate(
    package: Package,
    images: SiteImages,
    settings: Settings,
    *,
    site: str | None = None,
    reference: Reference | None = None,
    prevalence: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Validated:
    """Validate a package on a site's images; `prevalence` is the share where it is known better than from them.

    Raises DataError when fewer than 100 of them get a prediction, and for a model of a task with several findings.
    """
    if package.card.findings:
        raise DataError(
            f"Prior and thresholds of a site are for tasks with two findings; {package.card.task.name} has "
            f"{len(package.card.task.findings)}."
        )
    results = diagnose_site(package, images, settings, on_progress)
    predicted = [result for result in results if result.compared.probability is not None]
    if len(predicted) < LEAST:
        raise DataError(f"{images.name}: expected at least {LEAST} images with a prediction; found {len(predicted)}.")
    name = site or images.name
    card = package.card
    calibrated = calibrated_share(card, reference)
    shares = _shares(card, predicted, calibrated, prevalence)
    proposal = None
    if calibrated is not None and shares:
        prior = propose_prior(name, calibrated, shares[0], len(predicted))
        proposal = propose(card, results, prior, shares[0], settings.train)
    # A share that a person gives describes the site, not these images.
    here = next((share.value for share in shares if share.method != "given"), None)
    scored = [row.scored for row in results] if images.labelled else None
    evaluation = summarise(scored, card.thresholds, task=card.task) if scored else None
    draft = SiteValidation(
        site=name,
        model=card.version or package.sha256[:12],
        sha256=package.sha256,
        synthetic=card.synthetic,
        labelled=images.labelled,
        images=len(results),
        labels=counted(results),
        doubted=sum(result.doubted for result in predicted),
        evaluation=evaluation,
        calibration=_calibration(card, predicted, proposal) if evaluation else None,
        drift=drift_of(card, reference, results, here, settings.monitor.alarm_rate) if reference else None,
        shares=shares,
        proposal=proposal,
        warnings=(),
    )
    return Validated(draft.model_copy(update={"warnings": _warnings(draft, settings)}), results)


def _shares(
    card: Card, predicted: Sequence[SiteResult], calibrated: float | None, prevalence: float | None
) -> tuple[ShareEstimate, ...]:
    """Every estimate that the images allow, the one to propose first."""
    shares: list[ShareEstimate] = []
    if prevalence is not None:
        shares.append(ShareEstimate(method="given", value=prevalence, low=prevalence, high=prevalence, images=0))
    truths = [result.truth for result in predicted if result.truth is not None]
    if len(truths) == len(predicted) and (share := proportion(sum(truths), len(truths))):
        limits = {"value": share.value, "low": share.low, "high": share.high}
        shares.append(ShareEstimate(method="counted", images=len(truths), **limits))
    # What is doubted may be no chest: its risk says nothing.
    certain = [result for result in predicted if not result.doubted]
    if calibrated is None or len(certain) < LEAST // 2:
        return tuple(shares)
    risks, patients = risks_of(certain), np.array([row.compared.patient for row in certain], np.int64)
    shares.append(em(unshifted(risks, card), calibrated, patients, card.calibration))
    if black_box := bbse(np.asarray(risks >= card.thresholds.operating), card.confusion, patients):
        shares.append(black_box)
    return tuple(shares)


def _calibration(card: Card, predicted: Sequence[SiteResult], proposal: SiteProposal | None) -> SiteCalibration:
    risks, truths = risks_of(predicted), np.array([row.truth for row in predicted], np.int64)
    clipped = np.clip(risks, 1e-9, 1 - 1e-9)
    fitted: Calibration = fit_calibration(np.log(clipped / (1 - clipped)), truths)
    proposed = None
    if proposal:
        shift = proposal.prior.shift - card.shift
        proposed = ece(truths, np.array([shifted(float(risk), shift) for risk in risks]))
    return SiteCalibration(ece=ece(truths, risks), ece_proposed=proposed, scale=fitted.scale, bias=fitted.bias)


def _warnings(validation: SiteValidation, settings: Settings) -> tuple[str, ...]:
    """What a person should know before the proposal is used."""
    gate, sentences = settings.gate, list[str]()
    if validation.proposal is None:
        sentences.append("The card does not say which share of positives it was calibrated at: train again.")
    if (doubted := validation.doubted / validation.predicted) > gate.refused_rate:
        sentences.append(
            f"{doubted:.0%} of the images do not look like the model's own, so it does not label them: the rest says "
            "little about the site."
        )
    evaluation = validation.evaluation
    if evaluation and evaluation.auc is not None and evaluation.auc < gate.site_auc:
        sentences.append(
            f"The AUC here is {evaluation.auc:.3f}, less than {gate.site_auc:g}: no threshold makes up for that."
        )
    likelihood, black_box = validation.share("em"), validation.share("bbse")
    if likelihood and black_box and likelihood.apart_from(black_box):
        sentences.append(
            "The two estimates of the share contradict each other: images of each class look different here, and only "
            "labels tell the share."
        )
    matched = validation.drift and validation.drift.at_share
    if not validation.labelled and matched and (alarms := matched.alarms):
        sentences.append(
            f"The images differ from the model's own in more than the share of positives ({', '.join(alarms)}): an "
            "estimate without labels may be wrong. Label a hundred images."
        )
    return tuple(sentences)
