"""A version for a site: the champion's network with the site's prior, thresholds and reference, gated and registered.

The gate judges it as any other version: the test split's predictions, which the champion's run keeps in MLflow, get the
new risks and labels, and must pass every rule. Promotion, history and rollback are those of every version.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lungline.errors import PromotionRefused, RegistryError
from lungline.evaluation.gate import GateRule, GateVerdict, evaluate_gate, lowered_limits
from lungline.evaluation.metrics import LOOKS, Scored, summarise
from lungline.evaluation.scoring import Scores
from lungline.monitoring.reference import add_reference, reference_of
from lungline.package.answers import UNSURE, label_of
from lungline.package.card import Card, SiteFacts, amend_card, shifted
from lungline.package.package import Package
from lungline.package.signature import SIGNATURE
from lungline.registry import registration, tracking
from lungline.registry.provenance import code_facts
from lungline.registry.versions import Registry
from lungline.settings import GateSettings, Settings
from lungline.site_validation.proposal import SiteProposal
from lungline.site_validation.validation import SiteValidation, Validated
from lungline.task.overrides import task_option

EVALUATION = "evaluation"
"""Artifact folder of a run with the predictions for its test split."""


class SavedVersion(BaseModel):
    """What came of a version for a site; `version` is None when the gate refused it."""

    model_config = ConfigDict(frozen=True)

    version: str | None
    parent: str
    verdict: GateVerdict
    mlflow_run: str
    next: str


@dataclass(frozen=True, slots=True)
class _Folders:
    """What is written before anything is registered."""

    package: Path
    evaluation: Path
    record: Path


def save(validated: Validated, package: Package, settings: Settings, page: str) -> SavedVersion:
    """Register a version of the champion for a site, if the gate passes it; `page` is kept with its run.

    Raises PromotionRefused for another version than the champion and without a proposal, RegistryError when the
    champion's run has lost its evaluation, and what the registry raises.
    """
    validation, registry = validated.validation, Registry(settings)
    proposal, parent = _checked(validation, package, registry)
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        folders = _Folders(*(Path(temporary) / name for name in ("package", EVALUATION, "record")))
        card = _write_package(folders.package, package, validated, proposal)
        before = _tested(package.card, settings, Path(temporary) / "parent")
        after = relabelled(before, package.card, card)
        after.save(folders.evaluation)
        verdict = judge(validation, proposal, (before, after), settings.gate)
        run = _record(validation, proposal, card, verdict, after, folders, settings)
        for name, text in (("report.html", page), ("site.json", validation.model_dump_json(indent=2))):
            (folders.record / name).write_text(text, encoding="utf-8")
        tracking.note(settings, run, artifacts={EVALUATION: folders.evaluation, "site": folders.record})
        if not verdict.passed:
            return SavedVersion(
                version=None,
                parent=parent,
                verdict=verdict,
                mlflow_run=run,
                next="The gate refused it; nothing changed.",
            )
        registered = registration.register(
            registry,
            folders.package,
            run_id=run,
            pipeline_run=f"validate-site/{validation.site}",
            metrics=after.evaluation.metrics(),
            confusion=after.evaluation.confusion,
        )
    command = f"lungline promote {registered.version}{task_option(settings)} --by NAME --reason TEXT"
    following = f"Version {registered.version} is the challenger: {command}"
    return SavedVersion(version=registered.version, parent=parent, verdict=verdict, mlflow_run=run, next=following)


def relabelled(scores: Scores, before: Card, after: Card) -> Scores:
    """Predictions of a package as another card has them, which differs in prior and thresholds only.

    An image that was Unsure for another reason than its risk stays so. What the answers rest on does not change.
    """

    def moved(case: Scored) -> Scored:
        if case.probability is None:
            return case
        risk = shifted(case.probability, after.shift - before.shift)
        kept = case.predicted == UNSURE and label_of(case.probability, before.thresholds, before.task) != UNSURE
        doubted = kept or case.reason is not None
        predicted = UNSURE if doubted else label_of(risk, after.thresholds, after.task)
        return replace(case, probability=risk, predicted=predicted)

    cases = tuple(map(moved, scores.scored))
    evaluation = summarise(cases, after.thresholds, prior=after.prior, task=after.task)
    looks = {name: getattr(scores.evaluation, name) for name in LOOKS}
    return Scores(evaluation.model_copy(update=looks), cases)


def judge(
    validation: SiteValidation, proposal: SiteProposal, scores: tuple[Scores, Scores], settings: GateSettings
) -> GateVerdict:
    """The gate's verdict on the test split against the champion, with rules for the site."""
    before, after = scores
    verdict = evaluate_gate(
        after.evaluation,
        before.evaluation,
        settings,
        synthetic=validation.synthetic,
        paired=(after.scored, before.scored),
    )
    rules = (*verdict.rules, *_site_rules(validation, proposal, settings))
    failed = [rule.sentence for rule in rules if not rule.passed]
    passed = verdict.sentence.replace(f"All {len(verdict.rules)} rules", f"All {len(rules)} rules")
    return GateVerdict(
        passed=not failed,
        synthetic=verdict.synthetic,
        rules=rules,
        sentence=" ".join(failed) if failed else passed,
    )


def _site_rules(validation: SiteValidation, proposal: SiteProposal, settings: GateSettings) -> list[GateRule]:
    unsure = proposal.labels["Unsure"] / validation.predicted
    rules = [_rule("site_unsure_rate", unsure, settings.unsure_rate, lambda value, limit: value <= limit, "at most")]
    if validation.evaluation is not None:
        area = validation.evaluation.auc
        rules.append(_rule("site_auc", area, settings.site_auc, lambda value, limit: value >= limit, "at least"))
    likelihood, black_box = validation.share("em"), validation.share("bbse")
    if proposal.source.method == "em" and likelihood and black_box:
        gap = likelihood.apart_from(black_box)
        rules.append(_rule("site_share_gap", gap, 0.0, lambda value, limit: value <= limit, "at most"))
    return rules


def _rule(name: str, value: float | None, limit: float, holds: Callable[[float, float], bool], wanted: str) -> GateRule:
    measured = "not measurable" if value is None else f"{value:.4f}"
    return GateRule(
        name=name,
        value=value,
        limit=limit,
        passed=value is not None and holds(value, limit),
        sentence=f"{name} is {measured}, required {wanted} {limit:g}.",
    )


def _checked(validation: SiteValidation, package: Package, registry: Registry) -> tuple[SiteProposal, str]:
    champion = registry.champion()
    if (
        champion is None
        or package.card.version != champion
        or registry.noted(champion).get("package_sha256") != package.sha256
    ):
        raise PromotionRefused(
            f"Only the champion gets a version for a site, and version {validation.model} is not the champion: promote "
            "it first."
        )
    if validation.proposal is None:
        raise PromotionRefused(f"There is no proposal to save: {' '.join(validation.warnings)}")
    return validation.proposal, champion


def _write_package(folder: Path, package: Package, validated: Validated, proposal: SiteProposal) -> Card:
    """The champion's package with the site's prior, thresholds and reference."""
    validation, card = validated.validation, package.card
    shutil.copytree(package.folder, folder, ignore=shutil.ignore_patterns(SIGNATURE))
    facts = SiteFacts(
        name=validation.site,
        parent=validation.model,
        images=validation.predicted,
        labelled=validation.labelled,
    )
    thresholds = proposal.thresholds.thresholds()
    changes: dict[str, Any] = {
        "prior": proposal.prior,
        "thresholds": thresholds,
        "site": facts,
        "version": None,
        "created": datetime.now(UTC),
    }
    amend_card(folder, **changes)
    # Production data of the site will resemble the site's images, not those that the network was trained on.
    here = [
        result.at(proposal.prior.shift - card.shift, thresholds, card.task).compared for result in validated.results
    ]
    return add_reference(folder, reference_of(here, f"site {validation.site}"))


def _tested(card: Card, settings: Settings, folder: Path) -> Scores:
    """The test split's predictions by the champion, as its run keeps them."""
    missing = (
        f"The run of version {card.version} has no evaluation in MLflow, which the gate needs: train again, or promote "
        "a version whose run is complete."
    )
    folder.mkdir()
    place = tracking.fetch_artifacts(settings, card.mlflow_run_id, EVALUATION, folder) if card.mlflow_run_id else None
    if place is None:
        raise RegistryError(missing)
    try:
        scores = Scores.load(place)
    except (OSError, ValueError, TypeError) as exc:
        raise RegistryError(missing) from exc
    # The card is protected by its sha256 in the history; the artifacts of a run are not.
    recomputed = summarise(scores.scored, card.thresholds, prior=card.prior, resamples=0, task=card.task).metrics()
    for name in ("auc", "sensitivity", "specificity"):
        if abs(recomputed.get(name, -1.0) - card.metrics.get(name, -1.0)) > 1e-6:
            raise RegistryError(f"The evaluation in MLflow is not that of version {card.version}: its {name} differs.")
    return scores


def _record(  # noqa: PLR0917  # one call joins what the run shows
    validation: SiteValidation,
    proposal: SiteProposal,
    card: Card,
    verdict: GateVerdict,
    scores: Scores,
    folders: _Folders,
    settings: Settings,
) -> str:
    """The run in MLflow of this version."""
    params = {
        "site": validation.site,
        "parent": validation.model,
        "prior": f"{proposal.prior.share:.6g}",
        "prior.source": proposal.source.method,
        "images": str(validation.predicted),
        "labelled": str(validation.labelled).lower(),
    }
    params |= {f"thresholds.{name}": f"{getattr(card.thresholds, name):.6g}" for name in ("low", "operating", "high")}
    folders.record.mkdir()
    tracking.RunRecord(name=f"site {validation.site}", params=params, data=card.data, code=code_facts()).save(
        folders.record
    )
    run = tracking.settle(settings, folders.record)
    tracking.note(
        settings,
        run,
        metrics={f"test_{name}": value for name, value in scores.evaluation.metrics().items()},
        tags={
            tracking.GATE: "passed" if verdict.passed else "failed",
            tracking.VERDICT: verdict.sentence,
            tracking.LOWERED: "; ".join(lowered_limits(settings.gate)),
            "site": validation.site,
        },
    )
    return run
