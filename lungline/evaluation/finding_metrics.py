"""Metrics of each finding, where a task has several positive ones: against the rest, their mean, and mistakes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.evaluation.metrics import Evaluation, Scored, summarise
from lungline.package.answers import UNSURE, Presence
from lungline.package.card import Card
from lungline.task.task import Task

_ANSWERS: dict[Presence, str] = {"present": "present", "absent": "absent", "unsure": UNSURE}


class FindingsEvaluation(BaseModel):
    """Metrics of a task's findings.

    `each` has the metrics of every positive finding against all else, by its name. `taken_for` counts the images with
    each finding (rows) by the label that the model gave.
    """

    model_config = ConfigDict(frozen=True)

    each: dict[str, Evaluation]
    macro_auc: float | None = Field(description="Mean area under the ROC curve of the positive findings.")
    accuracy: float | None = Field(description="Share of the images that get the label of a finding that is there.")
    taken_for: dict[str, dict[str, int]]

    def metrics(self) -> dict[str, float]:
        """The scalar metrics, by name: `auc_viral` is that of the finding VIRAL against the rest."""
        named = {"macro_auc": self.macro_auc, "label_accuracy": self.accuracy}
        for name, evaluation in self.each.items():
            for metric in ("auc", "sensitivity", "specificity"):
                named[f"{metric}_{name.lower()}"] = getattr(evaluation, metric)
        return {name: float(value) for name, value in named.items() if value is not None}


def summarise_findings(scored: Sequence[Scored], card: Card, *, resamples: int = 0) -> FindingsEvaluation | None:
    """Metrics of each positive finding; None for a task with only one, whose metrics are those of the risk."""
    task = card.task
    if not card.findings:
        return None
    each = {
        model.name: summarise(
            one_against_rest(scored, task, at),
            model.thresholds,
            prior=model.prior,
            resamples=resamples,
            task=task,
            sides=("REST", model.name),
        )
        for at, model in enumerate(card.findings)
    }
    areas = [evaluation.auc for evaluation in each.values() if evaluation.auc is not None]
    right = np.array([case.predicted in _labels(case, task) for case in scored if case.probability is not None])
    return FindingsEvaluation(
        each=each,
        macro_auc=float(np.mean(areas)) if areas else None,
        accuracy=float(np.mean(right)) if len(right) else None,
        taken_for=_taken_for(scored, task),
    )


def one_against_rest(scored: Sequence[Scored], task: Task, at: int) -> list[Scored]:
    """The cases as cases of the positive finding at a place among these: is it there, and what does the model say."""
    return [
        Scored(
            int(at + 1 in task.present(case.whole)),
            case.name,
            case.kind,
            probability=case.findings[at][0] if case.findings else None,
            predicted=_ANSWERS[case.findings[at][1]] if case.findings else case.predicted,
            reason=case.reason,
        )
        for case in scored
    ]


def _labels(case: Scored, task: Task) -> set[str]:
    return {task.labels[at] for at in task.present(case.whole)}


def _taken_for(scored: Sequence[Scored], task: Task) -> dict[str, dict[str, int]]:
    labels = (*task.labels, UNSURE)
    predicted: NDArray[np.str_] = np.array([case.predicted for case in scored])
    table: dict[str, dict[str, int]] = {}
    for at, name in enumerate(task.names):
        here = np.array([at in task.present(case.whole) for case in scored])
        table[name] = {label: int(np.sum(here & (predicted == label))) for label in labels}
    return table
