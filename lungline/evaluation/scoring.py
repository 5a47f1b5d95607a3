"""Run a package over labelled images, as serving would, and keep each prediction with the metrics."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lungline.datasets.prepared import Prepared
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation import shortcuts
from lungline.evaluation.concurrency import in_order
from lungline.evaluation.finding_metrics import summarise_findings
from lungline.evaluation.metrics import LOOKS, Case, Evaluation, Scored, summarise
from lungline.imaging.image import Limits
from lungline.package.package import Package

EVALUATION, SCORES = "evaluation.json", "scores.json"
# Old names in scores.json, which a cached pipeline step may still hold.
_RENAMED = {"called": "predicted"}


@dataclass(frozen=True)
class Scores:
    """The prediction for each case, and the metrics over all of them."""

    evaluation: Evaluation
    scored: tuple[Scored, ...]

    def save(self, folder: Path) -> None:
        """Write evaluation.json and scores.json into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EVALUATION).write_text(self.evaluation.model_dump_json(indent=2) + "\n")
        (folder / SCORES).write_text(json.dumps([asdict(case) for case in self.scored]))

    @classmethod
    def load(cls, folder: Path) -> "Scores":
        """Read back what `save` wrote."""
        stored: list[dict[str, Any]] = json.loads((folder / SCORES).read_text())
        scored = tuple(_read({_RENAMED.get(name, name): case[name] for name in case}) for case in stored)
        return cls(Evaluation.model_validate_json((folder / EVALUATION).read_bytes()), scored)

    def roc(self) -> tuple[list[float], list[float], list[float]]:
        """False positive rates, true positive rates and thresholds of the ROC curve; all are finite."""
        predicted = [(case.label, case.probability) for case in self.scored if case.probability is not None]
        labels = np.array([label for label, _ in predicted])
        probabilities = np.array([probability for _, probability in predicted])
        thresholds = np.unique(np.append(probabilities, [0.0, 1.0]))[::-1]
        positive = probabilities[None, :] >= thresholds[:, None]
        rates = [(positive & (labels == side)).sum(axis=1) / max(1, int((labels == side).sum())) for side in (0, 1)]
        return rates[0].tolist(), rates[1].tolist(), thresholds.tolist()

    def confusion_matrix(self) -> tuple[list[str], list[list[int]]]:
        """Class names, and rows of true classes with columns of predicted ones, at the operating point."""
        counts = self.evaluation.confusion
        return list(self.evaluation.classes), [[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]]


def _read(case: dict[str, Any]) -> Scored:
    findings = tuple((probability, presence) for probability, presence in case.pop("findings", ()))
    return Scored(**case, findings=findings)


def score_split(
    package: Package,
    prepared: Prepared,
    split: str,
    limits: Limits,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score the original files of val or test; `on_progress` gets the number of images done and in all."""
    total = len(prepared.rows(split))

    def report(done: int) -> None:
        if on_progress:
            on_progress(done, total)

    scored = score(package, cases(prepared, split), limits, on_progress=report)
    return Scores(summarised(scored, package), tuple(scored))


def summarised(scored: Sequence[Scored], package: Package, seed: int = 0) -> Evaluation:
    """Metrics of the risk, with those of each of several findings."""
    card = package.card
    evaluation = summarise(scored, card.thresholds, prior=card.prior, seed=seed, task=card.task)
    findings = summarise_findings(scored, card)
    return evaluation.model_copy(update={"findings": findings.metrics()}) if findings else evaluation


def with_looks(evaluation: Evaluation, package: Package, cases: Iterable[Case], limits: Limits) -> Evaluation:
    """The evaluation with what the model's answers rest on: heat inside the lungs, border alone, inside alone."""
    looks = shortcuts.measure(package, cases, limits)
    return evaluation.model_copy(update={name: getattr(looks, name) for name in LOOKS})


def cases(prepared: Prepared, split: str) -> Iterator[Case]:
    """The original files of val or test, with their true labels."""
    for row, data in prepared.originals(split):
        yield Case(row.label, data, row.name, row.kind)


def evaluate(
    package: Package,
    examples: Iterable[tuple[int, bytes]],
    limits: Limits | None = None,
    *,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Metrics of a package on (label, file bytes) pairs, with what its answers rest on.

    Raises DataError when every image is refused.

    Example:
        evaluate(Package.load(folder), [(0, normal.read_bytes()), (1, effusion.read_bytes())]).auc
    """
    cases = [Case(label, data) for label, data in examples]
    scored = score(package, cases, limits, on_progress=on_progress)
    evaluation = summarised(scored, package, seed)
    return with_looks(evaluation, package, cases, limits or Limits())


def score(
    package: Package,
    cases: Iterable[Case],
    limits: Limits | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Diagnose each case as serving does; `on_progress` gets the number done."""
    diagnoser = Diagnoser(package, limits or Limits())
    scored: list[Scored] = []
    for result in in_order(partial(_score_case, diagnoser), cases):
        scored.append(result)
        if on_progress:
            on_progress(len(scored))
    return scored


def _score_case(diagnoser: Diagnoser, case: Case) -> Scored:
    diagnosis = diagnoser.diagnose(case.data, heatmap=False, statistics=False)
    image, prediction = diagnosis.image, diagnosis.prediction
    label, truth = int(case.label > 0), case.label if case.label > 1 else None
    if image is None or prediction is None:
        return Scored(label, case.name, case.kind, reason=diagnosis.reason, truth=truth)
    return Scored(
        label,
        case.name,
        case.kind,
        probability=prediction.probability,
        predicted=diagnosis.label,
        chest=prediction.chest,
        reason=next(iter(prediction.doubts), None),
        side=min(image.width, image.height),
        heat_inside=diagnosis.heat_inside,
        truth=truth,
        findings=tuple((answer.probability, answer.presence) for answer in prediction.findings),
    )
