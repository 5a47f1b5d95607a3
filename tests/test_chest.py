import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from lungline.datasets import phantom
from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds
from lungline.package.package import NOT_A_CHEST, Package
from lungline.settings import ModelSettings
from lungline.training.checks import fit_checks
from lungline.training.export import write_package
from lungline.training.network import build
from lungline.training.ood_check import draw_lesson
from lungline.training.outliers import KINDS, draw_outliers

SIZE = 64
PREPARATION = Preparation(size=SIZE)


def chests(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.stack([phantom.draw(random, opacities=bool(at % 2), size=SIZE) for at in range(count)])


def apply(package: Package, pixels: np.ndarray) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return package.predict(PREPARATION.apply(PREPARATION.decode(buffer.getvalue()))[np.newaxis])[0]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A network that knows no pneumonia, but was shown what a chest is."""
    network = build(ModelSettings(size=SIZE, width=4))
    train, val = chests(200, 1), chests(60, 2)
    check, _ = fit_checks(network, train, val, PREPARATION, draw_lesson(train, val, seed=0))
    card = Card(
        preparation=PREPARATION,
        thresholds=Thresholds(low=0, high=0, operating=0, chosen="Everything is pneumonia."),
        chest=check,
        data=DataFacts(name="phantom", digest="0", synthetic=True),
        code=CodeFacts(version="0"),
    )
    folder = tmp_path_factory.mktemp("package") / "chest"
    write_package(folder, keras_model=network, card=card, way="direct")
    return Package.load(folder)


def test_chests_are_not_doubted(package: Package) -> None:
    predictions = package.predict(PREPARATION.normalise(chests(100, 3)))
    assert sum(NOT_A_CHEST in prediction.warnings for prediction in predictions) <= 2


def test_images_that_are_no_chest_are_unsure(package: Package) -> None:
    """Three kinds take more chests to learn than these few drawn ones; tests/test_out_of_scope.py has real ones."""
    others = draw_outliers(22 * len(KINDS), chests(50, 4), np.random.default_rng(9))
    easier = np.tile([kind.__name__ not in {"_mirrored", "_viewer", "_screen"} for kind in KINDS], 22)
    predictions = package.predict(PREPARATION.normalise(others[easier]))
    assert np.mean([prediction.label == "Unsure" for prediction in predictions]) >= 0.95


@pytest.mark.parametrize("index", [0, 1])
def test_photographs_that_the_check_never_saw_are_unsure(package: Package, index: int) -> None:
    assert apply(package, load_sample_images().images[index]).label == "Unsure"


def test_a_photograph_of_a_person_is_unsure(package: Package) -> None:
    import matplotlib as mpl

    photograph = Path(mpl.get_data_path()) / "sample_data/grace_hopper.jpg"
    assert apply(package, np.asarray(Image.open(photograph))).label == "Unsure"


def test_the_card_says_how_the_limit_was_chosen(package: Package) -> None:
    assert package.card.chest is not None
    assert "validation X-rays" in package.card.chest.chosen


def test_the_same_seed_draws_the_same_images() -> None:
    first, second = (draw_outliers(40, chests(5, 0), np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, second)
