"""From the network's outputs to answers: the risk of an image, the probability of each finding, and the label.

The risk of an image is the probability of anything but the negative finding. Where an image has one of several, the
probability of a finding is the risk times its share among the positive ones, so both always agree. Where it may have
many at once, each has a probability of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lungline.package.card import Calibration, Card, FindingModel, Thresholds
from lungline.task.finding import Finding, Urgency
from lungline.task.reading import default_task
from lungline.task.task import Task

Presence = Literal["present", "absent", "unsure"]
UNSURE = "Unsure"
_RANK: dict[Urgency, int] = {"urgent": 0, "soon": 1, "routine": 2}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class FindingAnswer:
    """What the model says of one finding in one image."""

    name: str
    label: str
    probability: float
    presence: Presence


def label_of(probability: float, thresholds: Thresholds, task: Task | None = None) -> str:
    """The label of a risk, for a task with two findings: the negative one, the other, or Unsure."""
    negative, positive = (task or default_task()).labels
    return {"absent": negative, "present": positive, "unsure": UNSURE}[presence_of(probability, thresholds)]


def presence_of(probability: float, thresholds: Thresholds) -> Presence:
    """Whether a probability says that something is there."""
    if probability >= thresholds.high:
        return "present"
    return "absent" if probability < thresholds.low else "unsure"


def probabilities_of(
    task: Task, calibrations: Sequence[tuple[Calibration, float]], logits: Floats, risks: Floats
) -> NDArray[np.float64]:
    """Probabilities (N, positives) of the positive findings.

    `calibrations` are theirs, each with the shift of its prior in log odds. `logits` (N, outputs) are the network's,
    `risks` (N,) those of the images.
    """
    if task.kind == "many-at-once":
        each = [fit.probability(logits[:, at], shift) for at, (fit, shift) in enumerate(calibrations)]
        return np.stack(each, axis=1)
    odds = np.stack([fit.scale * logits[:, at + 1] + fit.bias for at, (fit, _) in enumerate(calibrations)], axis=1)
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return np.asarray(risks[:, None] * shares / shares.sum(axis=1, keepdims=True), np.float64)


def answers_of(card: Card, risk: float, logits: Floats) -> tuple[FindingAnswer, ...]:
    """The answers about each positive finding of one image; none for a task with two, whose answer is the risk."""
    if not card.findings:
        return ()
    calibrations = [(model.calibration, model.shift) for model in card.findings]
    (row,) = probabilities_of(card.task, calibrations, logits.reshape(1, -1), np.array([risk]))
    return tuple(
        FindingAnswer(finding.name, finding.label, float(chance), presence_of(float(chance), model.thresholds))
        for finding, model, chance in zip(card.task.positives, card.findings, row.tolist(), strict=True)
    )


def image_label(card: Card, risk: float, answers: Sequence[FindingAnswer]) -> str:
    """The label of an image."""
    task, overall = card.task, presence_of(risk, card.thresholds)
    if not answers:
        return label_of(risk, card.thresholds, task)
    present = [at for at, answer in enumerate(answers) if answer.presence == "present"]
    if task.kind == "one-of-several":
        if overall != "present":
            return task.negative.label if overall == "absent" else UNSURE
        best = max(answers, key=lambda answer: answer.probability)
        return best.label if best.presence == "present" else UNSURE
    if present:
        return answers[min(present, key=lambda at: _order(task.positives[at], answers[at]))].label
    return task.negative.label if overall == "absent" else UNSURE


def _order(finding: Finding, answer: FindingAnswer) -> tuple[int, float]:
    return _RANK[finding.urgency], -answer.probability


def headline(task: Task, logits: Any, backend: Any) -> Any:
    """Log odds (N, 1) of anything but the negative finding, from the logits (N, outputs) of the findings.

    `backend` is a module with numpy's functions and `logsumexp`, such as keras.ops.
    """
    if task.kind == "one-of-several":
        return backend.logsumexp(logits[..., 1:], axis=-1, keepdims=True) - logits[..., :1]
    return backend.logsumexp(logits, axis=-1, keepdims=True)


__all__ = [
    "UNSURE",
    "FindingAnswer",
    "FindingModel",
    "Presence",
    "answers_of",
    "headline",
    "image_label",
    "label_of",
    "presence_of",
    "probabilities_of",
]
