"""A task with one of several findings, from drawn images to a package, its metrics and its report."""

from pathlib import Path

import numpy as np
import pytest

from lungline.datasets.opening import Prepared, open_dataset, prepare
from lungline.errors import SettingsError
from lungline.evaluation.report import write_report
from lungline.evaluation.scoring import Scores, score_split
from lungline.imaging.image import Limits
from lungline.package.card import CodeFacts, DataFacts
from lungline.package.package import Package
from lungline.settings import load_settings
from lungline.task.reading import load_task
from lungline.training import ood_check
from lungline.training.export import check, write_package
from lungline.training.train import preparation_of, train

KIND = load_task("pneumonia-kind")
SETTINGS = load_settings(
    {"task": "pneumonia-kind", "model.size": 32, "model.width": 4, "train.epochs": 1, "train.batch": 12}
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    dataset = open_dataset("phantom:120", settings=SETTINGS)
    return prepare(dataset, preparation_of(SETTINGS.model), tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def package(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package that was trained for an epoch: it answers, and knows nothing; Keras and LiteRT agree on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ood_check, "EPOCHS", 1)  # whether it knows chests is tested elsewhere
        patch.setattr(ood_check, "OUTLIERS_A_KIND", 8)
        trained = train(prepared, SETTINGS)
    folder = tmp_path_factory.mktemp("package") / "1"
    facts = DataFacts(name=prepared.name, digest=prepared.digest, synthetic=True)
    card = trained.card(facts, CodeFacts(version="0"), SETTINGS)
    write_package(folder, keras_model=trained.model, card=card, way="direct")
    loaded = Package.load(folder)
    check(loaded, trained.model, trained.preparation.normalise(prepared.of("test")[0][:4]))
    return loaded


def test_a_package_answers_for_each_finding_of_its_task(package: Package, prepared: Prepared) -> None:
    assert package.card.task == KIND
    assert package.card.name == "pneumonia-kind"
    assert [model.name for model in package.card.findings] == ["BACTERIAL", "VIRAL"]
    images = package.card.preparation.normalise(prepared.of("test")[0][:6])
    for prediction in package.predict(images):
        assert prediction.label in {*KIND.labels, "Unsure"}
        assert [answer.name for answer in prediction.findings] == ["BACTERIAL", "VIRAL"]
        assert sum(answer.probability for answer in prediction.findings) == pytest.approx(prediction.probability)
    assert np.ptp(package.finding_logits(images), axis=0).min() > 0


def test_metrics_and_report_are_of_each_finding(package: Package, prepared: Prepared, tmp_path: Path) -> None:
    scores = score_split(package, prepared, "test", Limits())
    assert {"macro_auc", "auc_bacterial", "auc_viral", "label_accuracy"} <= scores.evaluation.metrics().keys()
    assert {case.whole for case in scores.scored} == {0, 1, 2}
    scores.save(tmp_path)
    assert Scores.load(tmp_path) == scores
    page = write_report(tmp_path / "report", package, scores.evaluation, scores.scored).read_text()
    for text in ("Labels given", "BACTERIAL", "macro auc", KIND.warning, KIND.use.not_meant_for):
        assert text in page
    assert "| Images with | Normal | Bacterial | Viral | Unsure |" in (tmp_path / "report/model_card.md").read_text()


def test_teachers_are_for_tasks_with_two_findings(prepared: Prepared) -> None:
    with pytest.raises(SettingsError, match="is for tasks with two findings; pneumonia-kind has 3"):
        train(prepared, load_settings({"train.recipe": "best"}))
