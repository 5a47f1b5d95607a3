"""The population check: images unlike those of training are Unsure, and the reason is theirs."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lungline.datasets import phantom
from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds, amend_card
from lungline.package.package import UNLIKE_TRAINING, Package
from lungline.settings import ModelSettings
from lungline.training.export import write_package
from lungline.training.network import build
from lungline.training.population import SUMMARY, fit_population_check
from lungline.training.views import views_of

SIZE = 64
PREPARATION = Preparation(size=SIZE, normalisation="equalise-limited")


def chests(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([phantom.draw(random, opacities=bool(at % 2), size=SIZE) for at in range(count)])


def grainy(pixels: np.ndarray) -> np.ndarray:
    """The same chests from a detector with heavy grain: nothing that training has shown."""
    noise = np.random.default_rng(0).normal(0, 45, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    network = build(ModelSettings(size=SIZE, width=4))
    seen = views_of(network, chests(150, 1), PREPARATION, {SUMMARY: np.arange(150)})
    card = Card(
        preparation=PREPARATION,
        thresholds=Thresholds(low=0, high=0, operating=0, chosen="Everything is pneumonia."),
        population=fit_population_check(network, seen[SUMMARY], chests(60, 2), PREPARATION),
        data=DataFacts(name="phantom", digest="0", synthetic=True),
        code=CodeFacts(version="0"),
    )
    folder = tmp_path_factory.mktemp("package") / "1"
    write_package(folder, keras_model=network, card=card, way="direct")
    return Package.load(folder)


def test_images_like_those_of_training_are_not_doubted(package: Package) -> None:
    predictions = package.predict(PREPARATION.normalise(chests(100, 3)))
    assert sum(bool(prediction.doubts) for prediction in predictions) <= 8
    assert 0.5 < np.median([prediction.distance or 0 for prediction in predictions]) < 1.5


def test_images_of_another_kind_of_detector_are_unsure_and_say_why(package: Package) -> None:
    predictions = package.predict(PREPARATION.normalise(grainy(chests(50, 3))))
    doubted = [prediction for prediction in predictions if prediction.doubts]
    assert len(doubted) >= 45
    assert {(prediction.label, prediction.doubts, prediction.warnings) for prediction in doubted} == {
        ("Unsure", ("unlike-training",), (UNLIKE_TRAINING,))
    }


def test_a_package_of_before_has_no_such_check(package: Package, tmp_path: Path) -> None:
    shutil.copytree(package.folder, tmp_path / "1")
    amend_card(tmp_path / "1", population=None)
    (prediction,) = Package.load(tmp_path / "1").predict(PREPARATION.normalise(grainy(chests(1, 3))))
    assert (prediction.distance, prediction.doubts) == (None, ())


def test_the_card_says_how_the_threshold_was_chosen(package: Package) -> None:
    assert package.card.population is not None
    assert "150 training images" in package.card.population.chosen
