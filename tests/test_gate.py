import json

import numpy as np
import pytest

from lungline.evaluation.gate import GateRule, evaluate_gate
from lungline.evaluation.metrics import Evaluation, Scored, summarise
from lungline.package.answers import label_of
from lungline.package.card import Thresholds
from lungline.settings import GateSettings

THRESHOLDS = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")


def scores(spread: float, seed: int = 0, count: int = 200) -> list[Scored]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    probabilities = np.clip(np.where(labels == 1, 0.95, 0.05) + random.normal(0, spread, count), 0, 1)
    return [
        Scored(int(label), probability=float(p), predicted=label_of(float(p), THRESHOLDS))
        for label, p in zip(labels, probabilities, strict=True)
    ]


GOOD = scores(0.02)


def evaluation(**changes: object) -> Evaluation:
    return summarise(GOOD, THRESHOLDS).model_copy(update=changes)


def test_a_good_model_passes_every_rule() -> None:
    verdict = evaluate_gate(evaluation(), None, GateSettings(), synthetic=False)
    assert verdict.passed
    assert verdict.sentence == f"All {len(verdict.rules)} rules passed."


@pytest.mark.parametrize(
    ("metric", "value"),
    [("auc", 0.5), ("accuracy", 0.5), ("sensitivity", 0.5), ("specificity", 0.5), ("ece", 0.5), ("unsure_rate", 0.5)],
)
def test_each_rule_fails_alone_and_says_by_how_much(metric: str, value: float) -> None:
    verdict = evaluate_gate(evaluation(**{metric: value}), None, GateSettings(), synthetic=False)
    assert [rule.name for rule in verdict.rules if not rule.passed] == [metric]
    assert f"{metric} is {value:.4f}" in verdict.sentence
    assert "missed by" in verdict.sentence


def test_too_many_refusals_fail() -> None:
    verdict = evaluate_gate(evaluation(refused=50), None, GateSettings(), synthetic=False)
    assert [rule.name for rule in verdict.rules if not rule.passed] == ["refused"]


def test_a_metric_that_cannot_be_measured_fails() -> None:
    verdict = evaluate_gate(evaluation(auc=None), None, GateSettings(), synthetic=False)
    assert not verdict.passed
    assert "auc is not measurable" in verdict.sentence


def test_a_model_as_good_as_the_champion_passes() -> None:
    verdict = evaluate_gate(evaluation(), evaluation(), GateSettings(), synthetic=False, paired=(GOOD, GOOD))
    assert verdict.passed
    assert "auc_gain" in [rule.name for rule in verdict.rules]


def test_a_loss_beyond_the_margin_fails_that_rule_alone() -> None:
    worse = scores(0.35)
    settings = GateSettings(accuracy=0, sensitivity=0, specificity=0, ece=1, unsure_rate=1, auc=0)
    verdict = evaluate_gate(summarise(worse, THRESHOLDS), evaluation(), settings, synthetic=False, paired=(worse, GOOD))
    assert [rule.name for rule in verdict.rules if not rule.passed] == ["auc_gain"]
    assert "champion" in verdict.sentence


def test_a_verdict_on_a_model_of_phantoms_says_so() -> None:
    verdict = evaluate_gate(evaluation(), None, GateSettings(), synthetic=True)
    assert verdict.passed
    assert verdict.synthetic
    assert "phantoms" in verdict.sentence


def test_the_stored_value_of_a_rule_keeps_its_key() -> None:
    rule = evaluate_gate(evaluation(), None, GateSettings(), synthetic=False).rules[0]
    assert json.loads(rule.model_dump_json())["figure"] == rule.value
    assert GateRule.model_validate_json(rule.model_dump_json()) == rule
