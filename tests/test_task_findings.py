"""Answers, calibration and metrics of tasks with several findings."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from lungline.errors import PackageError
from lungline.evaluation.finding_metrics import summarise_findings
from lungline.evaluation.gate import evaluate_gate
from lungline.evaluation.metrics import Scored, summarise
from lungline.imaging.preparation import Preparation
from lungline.package.answers import FindingAnswer, Presence, answers_of, headline, image_label, presence_of
from lungline.package.card import Calibration, Card, CodeFacts, DataFacts, FindingModel, Thresholds, amend_card
from lungline.package.package import Package
from lungline.settings import GateSettings, TrainSettings, load_settings
from lungline.task.reading import load_task
from lungline.task.task import Task
from lungline.task.writing import new_task, render
from lungline.training.finding_calibration import Outputs, fit_findings
from lungline.training.loop import targets_of
from tests.support.tiny_package import write_tiny_package

KIND = load_task("pneumonia-kind")
MANY = new_task("device", "many-at-once")
BAND = Thresholds(low=0.3, high=0.6, operating=0.5, chosen="By hand.")


def card(task: Task) -> Card:
    models = tuple(
        FindingModel(name=finding.name, calibration=Calibration(kind="softmax"), thresholds=BAND)
        for finding in task.positives
    )
    return Card(
        preparation=Preparation(size=32),
        task=task,
        findings=models,
        thresholds=BAND,
        data=DataFacts(name="drawn", digest="0" * 64, synthetic=True),
        code=CodeFacts(version="0"),
    )


def test_a_card_names_the_findings_of_its_task() -> None:
    written = card(KIND)
    assert written.classes == KIND.names
    assert Card.model_validate_json(written.model_dump_json()) == written


def test_a_card_has_exactly_the_findings_of_its_task() -> None:
    values = card(KIND).model_dump()
    with pytest.raises(
        ValidationError, match="expected findings BACTERIAL, VIRAL for the task pneumonia-kind; found BACT"
    ):
        Card.model_validate(values | {"findings": values["findings"][:1]})
    with pytest.raises(ValidationError, match="expected findings none for the task pneumonia; found BACTERIAL, VIRAL"):
        Card.model_validate(values | {"task": load_task("pneumonia")})


def test_a_network_without_outputs_for_the_findings_is_no_package(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    write_tiny_package(folder)
    kind = card(KIND)
    amend_card(folder, task=kind.task, classes=kind.classes, findings=kind.findings)
    with pytest.raises(PackageError, match="has no output for each finding of pneumonia-kind"):
        Package.load(folder)


def test_the_probabilities_of_one_of_several_add_up_to_the_risk() -> None:
    answers = answers_of(card(KIND), 0.8, np.array([9.0, 2.0, 1.0]))
    chances = [answer.probability for answer in answers]
    assert sum(chances) == pytest.approx(0.8)
    assert chances[0] / chances[1] == pytest.approx(np.e)


def test_each_of_many_findings_has_a_probability_of_its_own() -> None:
    first, second = answers_of(card(MANY), 0.9, np.array([2.0, -2.0]))
    assert (first.presence, second.presence) == ("present", "absent")
    assert first.probability + second.probability == pytest.approx(1.0)


def answers(task: Task, *chances: float) -> list[FindingAnswer]:
    return [
        FindingAnswer(finding.name, finding.label, chance, presence_of(chance, BAND))
        for finding, chance in zip(task.positives, chances, strict=True)
    ]


@pytest.mark.parametrize(
    ("risk", "chances", "label"),
    [
        (0.9, (0.7, 0.2), "Bacterial"),
        (0.9, (0.45, 0.45), "Unsure"),
        (0.2, (0.1, 0.1), "Normal"),
        (0.5, (0.4, 0.1), "Unsure"),
    ],
)
def test_the_label_of_one_of_several(risk: float, chances: tuple[float, float], label: str) -> None:
    assert image_label(card(KIND), risk, answers(KIND, *chances)) == label


@pytest.mark.parametrize(
    ("risk", "chances", "label"),
    [
        (0.9, (0.7, 0.99), "First"),  # the more urgent
        (0.9, (0.1, 0.8), "Second"),
        (0.1, (0.1, 0.1), "Normal"),
        (0.9, (0.4, 0.1), "Unsure"),
    ],
)
def test_the_label_of_many_at_once(risk: float, chances: tuple[float, float], label: str) -> None:
    assert image_label(card(MANY), risk, answers(MANY, *chances)) == label


class Backend:
    """numpy with the one function of keras.ops that it has not."""

    @staticmethod
    def logsumexp(values: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
        return np.log(np.exp(values).sum(axis=axis, keepdims=keepdims))


def test_the_risk_has_the_odds_of_anything_but_the_negative() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3]]))
    odds = headline(KIND, logits, Backend)
    assert odds.shape == (1, 1)
    assert 1 / (1 + np.exp(-odds[0, 0])) == pytest.approx(0.8)


def test_what_is_learnt_of_a_label() -> None:
    assert targets_of(np.array([0, 2]), KIND, 0.0).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert targets_of(np.array([0, 3]), MANY, 0.0).tolist() == [[0, 0], [1, 1]]
    assert targets_of(np.array([0, 1]), load_task("pneumonia"), 0.1) == pytest.approx([0.05, 0.95])


def drawn(task: Task, count: int = 600) -> tuple[np.ndarray, Outputs]:
    """Labels, and outputs of a network that knows them but is far too sure of itself."""
    random = np.random.default_rng(3)
    if task.kind == "many-at-once":
        odds = random.normal(0, 1.5, (count, 2))
        labels = ((random.random((count, 2)) < 1 / (1 + np.exp(-odds))) @ np.array([1, 2])).astype(int)
        return labels, Outputs(odds * 4, 1 - np.prod(1 / (1 + np.exp(odds)), axis=1))
    odds = random.normal(0, 1.5, (count, 3))
    chances = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in chances])
    return labels, Outputs(odds * 4, 1 - chances[:, 0])


@pytest.mark.parametrize("task", [KIND, MANY], ids=lambda task: task.kind)
def test_calibration_takes_back_too_much_certainty(task: Task) -> None:
    labels, seen = drawn(task)
    models = fit_findings(task, labels, TrainSettings(), seen, seen)
    assert [model.name for model in models] == [finding.name for finding in task.positives]
    for model in models:
        assert model.calibration.scale == pytest.approx(0.25, rel=0.3)
        assert model.thresholds.low <= model.thresholds.operating <= model.thresholds.high


def test_findings_have_targets_and_prevalences_of_their_own() -> None:
    values = MANY.model_dump()
    values["finding"][1]["targets"] = {"prevalence": 0.01, "unsure_rate": 0.0}
    labels, seen = drawn(MANY)
    first, second = fit_findings(Task.model_validate(values), labels, TrainSettings(prevalence=0.2), seen, seen)
    assert first.prior is not None
    assert second.prior is not None
    assert first.prior.share == 0.01
    assert second.prior.shift == 0
    assert first.thresholds.low == first.thresholds.high


def scored(task: Task) -> list[Scored]:
    rows: list[tuple[int, str, tuple[float, float]]] = [
        (0, "Normal", (0.1, 0.1)),
        (0, "Normal", (0.2, 0.1)),
        (1, "Bacterial", (0.8, 0.1)),
        (1, "Viral", (0.3, 0.65)),
        (2, "Viral", (0.1, 0.8)),
        (2, "Unsure", (0.4, 0.45)),
    ]
    cases: list[Scored] = []
    for truth, label, chances in rows:
        answered: tuple[tuple[float, Presence], ...] = tuple((chance, presence_of(chance, BAND)) for chance in chances)
        whole = truth if truth > 1 else None
        cases.append(Scored(int(truth > 0), probability=sum(chances), predicted=label, truth=whole, findings=answered))
    return cases


def test_findings_are_measured_against_the_rest() -> None:
    findings = summarise_findings(scored(KIND), card(KIND))
    assert findings is not None
    assert findings.taken_for["BACTERIAL"] == {"Normal": 0, "Bacterial": 1, "Viral": 1, "Unsure": 0}
    assert findings.each["BACTERIAL"].classes == {"REST": 4, "BACTERIAL": 2}
    assert findings.each["BACTERIAL"].auc == pytest.approx(7 / 8)
    assert findings.accuracy == pytest.approx(4 / 6)
    assert findings.metrics()["auc_viral"] == findings.each["VIRAL"].auc
    risk = summarise(scored(KIND), BAND, task=KIND, resamples=0)
    assert risk.per_class["POSITIVE"] == {"Normal": 0, "Unsure": 1, "Positive": 3}
    assert risk.auc == 1.0


def test_the_gate_asks_for_the_floors_of_each_finding() -> None:
    values = KIND.model_dump()
    values["finding"][1]["floors"] = {"auc": 0.9}
    evaluation = summarise(scored(KIND), BAND, task=KIND, resamples=0).model_copy(
        update={"findings": {"auc_bacterial": 0.875}}
    )
    verdict = evaluate_gate(evaluation, None, GateSettings(), synthetic=False, task=Task.model_validate(values))
    assert "auc_bacterial is 0.8750, required at least 0.9" in verdict.sentence
    assert "auc_bacterial" not in evaluate_gate(evaluation, None, GateSettings(), synthetic=False, task=KIND).sentence


def test_a_task_file_holds_where_the_settings_say_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    values = new_task("rib-fracture").model_dump()
    values["gate"]["auc"], values["targets"]["sensitivity"] = 0.7, 0.8
    file = tmp_path_factory.mktemp("task") / "rib.toml"
    file.write_text(render(Task.model_validate(values)))
    settings = load_settings({"task": str(file)})
    assert (settings.gate.auc, settings.train.sensitivity) == (0.7, 0.8)
    assert (settings.model_name, settings.experiment) == ("rib-fracture", "rib-fracture")
    named = load_settings({"task": str(file), "gate.auc": 0.9, "model_name": "ribs"})
    assert (named.gate.auc, named.model_name, named.gate.accuracy) == (0.9, "ribs", 0.85)
    assert load_settings({}).model_name == "pneumonia"
