"""The gate: minimum metrics of a model before it is registered, and non-inferiority to the champion.

`components.gate` is the pipeline step that calls it.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from lungline.datasets.prepared import Prepared
from lungline.evaluation.metrics import Evaluation, Scored, auc
from lungline.evaluation.scoring import Scores, cases, score_split, with_looks
from lungline.imaging.image import Limits
from lungline.package.package import Package
from lungline.registry.versions import Registry
from lungline.settings import GateSettings, Settings
from lungline.task.task import Task

RESAMPLES = 1000
CEILINGS = {"ece", "unsure_rate", "refused_rate", "border_auc", "margin"}
"""Settings of the gate that are maxima; the others are minima."""


class GateRule(BaseModel):
    """One rule with its measured value and its limit; in JSON the value is called `figure`."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    name: str
    value: float | None = Field(validation_alias=AliasChoices("value", "figure"), serialization_alias="figure")
    limit: float
    passed: bool
    sentence: str


class GateVerdict(BaseModel):
    """Whether a model passes the gate, and why; for a synthetic model it holds for the laptop only."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    synthetic: bool
    rules: tuple[GateRule, ...]
    sentence: str


def evaluate_gate(
    evaluation: Evaluation,
    champion: Evaluation | None,
    settings: GateSettings,
    *,
    synthetic: bool,
    paired: tuple[Sequence[Scored], Sequence[Scored]] | None = None,
    task: Task | None = None,
) -> GateVerdict:
    """Compare a model with the limits of settings and task and, if there is one, with the champion on the same images.

    `paired` are the challenger's and the champion's scores of the same cases in the same order; with them the
    comparison is a paired bootstrap, without them the plain difference in AUC.
    """
    floors = [_floor(evaluation, name, settings) for name in ("auc", "accuracy", "sensitivity", "specificity")]
    ceilings = [_ceiling(evaluation, name, settings) for name in ("ece", "unsure_rate")]
    rules = [
        *floors,
        *ceilings,
        _refusals(evaluation, settings),
        *_looks(evaluation, settings),
        *_findings(evaluation, task),
    ]
    if champion is not None:
        rule = _against(evaluation, champion, settings.margin, paired)
        rules.append(_excused(rule, evaluation, champion, settings.border_auc))
    failed = [rule.sentence for rule in rules if not rule.passed]
    sentence = " ".join(failed) if failed else f"All {len(rules)} rules passed."
    if synthetic:
        sentence += " The model was trained on drawn phantoms: it may serve on a laptop only."
    return GateVerdict(passed=not failed, synthetic=synthetic, rules=tuple(rules), sentence=sentence)


def lowered_limits(settings: GateSettings, task: GateSettings = GateSettings()) -> list[str]:  # noqa: B008 - frozen
    """Limits that are laxer than those of the task, such as `auc 0 instead of 0.95`."""
    lowered: list[str] = []
    for name, default in task.model_dump().items():
        limit = float(getattr(settings, name))
        if limit > default if name in CEILINGS else limit < default:
            lowered.append(f"{name} {limit:g} instead of {default:g}")
    return lowered


def _floor(evaluation: Evaluation, name: str, settings: GateSettings) -> GateRule:
    value, limit = getattr(evaluation, name), float(getattr(settings, name))
    return _rule(name, value, limit, passed=value is not None and value >= limit, wanted="at least")


def _ceiling(evaluation: Evaluation, name: str, settings: GateSettings) -> GateRule:
    value, limit = getattr(evaluation, name), float(getattr(settings, name))
    return _rule(name, value, limit, passed=value is not None and value <= limit, wanted="at most")


def _looks(evaluation: Evaluation, settings: GateSettings) -> list[GateRule]:
    """What the answers rest on; nothing for an evaluation that did not measure it, as those of earlier releases."""
    if evaluation.border_auc is None and evaluation.inside_auc is None:
        return []
    rules = [
        (_floor(evaluation, "heat_inside", settings), settings.heat_inside > 0),
        (_ceiling(evaluation, "border_auc", settings), settings.border_auc < 1),
        (_floor(evaluation, "inside_auc", settings), settings.inside_auc > 0),
    ]
    # A limit that everything reaches asks nothing of what cannot be measured, such as heat without confident images.
    return [rule for rule, asks in rules if asks or rule.value is not None]


def _findings(evaluation: Evaluation, task: Task | None) -> Iterator[GateRule]:
    """What each of several findings must reach by the task file."""
    for finding in task.positives if task and len(task.positives) > 1 else ():
        for metric, limit in finding.floors.model_dump(exclude_none=True).items():
            name = f"{metric}_{finding.name.lower()}"
            value = evaluation.findings.get(name)
            yield _rule(name, value, limit, passed=value is not None and value >= limit, wanted="at least")


def _refusals(evaluation: Evaluation, settings: GateSettings) -> GateRule:
    value = (evaluation.refused + evaluation.doubted) / (evaluation.n + evaluation.refused)
    return _rule("refused", value, settings.refused_rate, passed=value <= settings.refused_rate, wanted="at most")


def _rule(name: str, value: float | None, limit: float, *, passed: bool, wanted: str) -> GateRule:
    measured = "not measurable" if value is None else f"{value:.4f}"
    miss = "" if passed or value is None else f", missed by {abs(limit - value):.4f}"
    sentence = f"{name} is {measured}, required {wanted} {limit:g}{miss}."
    return GateRule(name=name, value=value, limit=limit, passed=passed, sentence=sentence)


def _against(
    evaluation: Evaluation,
    champion: Evaluation,
    margin: float,
    paired: tuple[Sequence[Scored], Sequence[Scored]] | None,
) -> GateRule:
    """Non-inferiority: the loss of AUC stays within the margin at the low end of its 90 % interval."""
    if evaluation.auc is None or champion.auc is None:
        return _rule("auc_gain", None, -margin, passed=False, wanted="at least")
    gain = evaluation.auc - champion.auc
    value = _low_end(*paired) if paired else gain
    rule = _rule("auc_gain", value, -margin, passed=value >= -margin, wanted="at least")
    how = "low end of the paired 90 % interval" if paired else "plain difference"
    return rule.model_copy(
        update={"sentence": f"{rule.sentence[:-1]} against the champion ({how}; the gain itself is {gain:+.4f})."}
    )


def _excused(rule: GateRule, evaluation: Evaluation, champion: Evaluation, most: float) -> GateRule:
    """The comparison, passed if only the champion reads the border: its AUC holds for films that are framed as here."""
    ours, theirs = evaluation.border_auc, champion.border_auc
    if rule.passed or ours is None or theirs is None or ours > most or theirs <= most:
        return rule
    reason = f" It does not count: the champion has an AUC of {theirs:.4f} from the border alone, more than {most:g}."
    return rule.model_copy(update={"passed": True, "sentence": rule.sentence + reason})


def _low_end(challenger: Sequence[Scored], champion: Sequence[Scored], seed: int = 0) -> float:
    pairs = [
        (ours.label, ours.probability, theirs.probability)
        for ours, theirs in zip(challenger, champion, strict=True)
        if ours.probability is not None and theirs.probability is not None
    ]
    labels, ours, theirs = (np.array(column) for column in zip(*pairs, strict=True))
    random = np.random.default_rng(seed)
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    gains: list[float] = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([random.choice(side, len(side)) for side in sides])
        gains.append(auc(labels[rows], ours[rows]) - auc(labels[rows], theirs[rows]))
    return float(np.percentile(gains, 5))


def evaluate_against_champion(scores: Scores, prepared: Prepared, limits: Limits, settings: Settings) -> GateVerdict:
    """Gate a model's test scores; the champion, if there is one, is scored on the same files for the comparison."""
    registry = Registry(settings)
    champion = registry.champion()
    if champion is None:
        return evaluate_gate(scores.evaluation, None, settings.gate, synthetic=prepared.synthetic, task=prepared.task)
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        package: Package = registry.fetch(champion, Path(temporary) / champion)
        theirs = score_split(package, prepared, "test", limits)
        looks = with_looks(theirs.evaluation, package, cases(prepared, "test"), limits)
    return evaluate_gate(
        scores.evaluation,
        looks,
        settings.gate,
        synthetic=prepared.synthetic,
        paired=(scores.scored, theirs.scored),
        task=prepared.task,
    )
