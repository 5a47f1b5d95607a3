"""The scores of a package on a prepared split, kept with the figures that were taken of them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lungline.datasets.prepared import Prepared
from lungline.errors import ImageRefused
from lungline.evaluation.metrics import Case, Evaluation, Scored, summarise
from lungline.imaging.image import Limits
from lungline.package.package import NOT_A_CHEST, Package

EVALUATION, SCORES = "evaluation.json", "scores.json"


@dataclass(frozen=True)
class Scores:
    """What became of each picture, and the figures."""

    evaluation: Evaluation
    scored: tuple[Scored, ...]

    def save(self, folder: Path) -> None:
        """Write evaluation.json and scores.json into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EVALUATION).write_text(self.evaluation.model_dump_json(indent=2) + "\n")
        (folder / SCORES).write_text(json.dumps([asdict(one) for one in self.scored]))

    @classmethod
    def load(cls, folder: Path) -> "Scores":
        """What was saved in a folder."""
        scored = tuple(Scored(**one) for one in json.loads((folder / SCORES).read_text()))
        return cls(Evaluation.model_validate_json((folder / EVALUATION).read_bytes()), scored)

    def roc(self) -> tuple[list[float], list[float], list[float]]:
        """False positive rates, true positive rates and thresholds of the ROC curve; all are finite."""
        judged = [(one.label, one.probability) for one in self.scored if one.probability is not None]
        labels = np.array([label for label, _ in judged])
        probabilities = np.array([probability for _, probability in judged])
        thresholds = np.unique(np.append(probabilities, [0.0, 1.0]))[::-1]
        called = probabilities[None, :] >= thresholds[:, None]
        rates = [(called & (labels == side)).sum(axis=1) / max(1, int((labels == side).sum())) for side in (0, 1)]
        return rates[0].tolist(), rates[1].tolist(), thresholds.tolist()

    def confusion_matrix(self) -> tuple[list[str], list[list[int]]]:
        """Class names, and rows of true classes with columns of called ones, at the operating point."""
        found = self.evaluation.confusion
        return ["NORMAL", "PNEUMONIA"], [[found["tn"], found["fp"]], [found["fn"], found["tp"]]]


def score_split(
    package: Package,
    prepared: Prepared,
    split: str,
    limits: Limits,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Judge the original files of val or test; `on_progress` hears pictures done and pictures in all."""
    total = len(prepared.rows(split))

    def heard(done: int) -> None:
        if on_progress:
            on_progress(done, total)

    scored = score(package, cases(prepared, split), limits, on_progress=heard)
    return Scores(summarise(scored, package.card.thresholds), tuple(scored))


def cases(prepared: Prepared, split: str) -> Iterator[Case]:
    """The original files of val or test, with their truth."""
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
    """Figures of a package on (label, file bytes) pairs. Raises DataError when no picture can be judged."""
    cases = (Case(label, data) for label, data in examples)
    return summarise(score(package, cases, limits, on_progress=on_progress), package.card.thresholds, seed=seed)


def score(
    package: Package,
    cases: Iterable[Case],
    limits: Limits | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Judge each case as serving would; `on_progress` hears the number done."""
    scored: list[Scored] = []
    for case in cases:
        scored.append(_judge(package, case, limits or Limits()))
        if on_progress:
            on_progress(len(scored))
    return scored


def _judge(package: Package, case: Case, limits: Limits) -> Scored:
    preparation = package.card.preparation
    try:
        picture = preparation.decode(case.data, limits)
    except ImageRefused as refusal:
        return Scored(case.label, case.name, case.kind, reason=refusal.reason)
    (prediction,) = package.predict(preparation.apply(picture)[np.newaxis])
    return Scored(
        case.label,
        case.name,
        case.kind,
        probability=prediction.probability,
        called=prediction.label,
        chest=prediction.chest,
        reason=NOT_A_CHEST if NOT_A_CHEST in prediction.warnings else None,
        side=min(picture.width, picture.height),
    )
