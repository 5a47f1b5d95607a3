from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from lungline.datasets.opening import Prepared, open_dataset, prepare
from lungline.errors import PackageError
from lungline.package.card import Calibration, CodeFacts, DataFacts, amend_card
from lungline.package.package import Package
from lungline.settings import ModelSettings, load_settings
from lungline.settings_blocks import Way
from lungline.training.augment import augment, reframe
from lungline.training.export import check, write_package
from lungline.training.imagenet import imagenet_weights
from lungline.training.loop import Epoch, logits
from lungline.training.network import CLASSIFIER, build_classifier
from lungline.training.teachers import Lesson, _groups
from lungline.training.train import Trained, build, preparation_of, train

SETTINGS = load_settings(
    {"data": "phantom:160", "model.size": 32, "model.width": 8, "train.epochs": 2, "train.batch": 16}
)
SMALL = ModelSettings(size=32, width=4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(open_dataset("phantom:160", settings=SETTINGS), preparation_of(SETTINGS.model), folder)


@pytest.fixture(scope="module")
def run(prepared: Prepared) -> tuple[Trained, list[Epoch]]:
    epochs: list[Epoch] = []
    return train(prepared, SETTINGS, epochs.append), epochs


def test_the_network_starts_from_weights_that_know_edges_and_textures() -> None:
    stem = build(SMALL).get_layer(CLASSIFIER).get_layer("conv_stem").get_weights()[0]
    assert np.allclose(stem[:, :, 0, :], imagenet_weights()["_conv_stem.weight"].sum(axis=1).transpose(1, 2, 0))


def test_random_weights_repeat_with_their_seed() -> None:
    settings = SMALL.model_copy(update={"weights": "random"})
    first, second, other = (build(settings, seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_logit_is_the_mean_of_the_map_inside_the_lungs() -> None:
    rng = np.random.default_rng(0)
    images, field = rng.random((3, 32, 32, 1), np.float32), np.zeros((3, 2, 2), np.float32)
    field[:, 0] = 1
    seen = build_classifier(SMALL).predict([images, field], verbose="0")
    inside, outside = seen["evidence"][:, 0].mean(axis=1), seen["evidence"][:, 1].mean(axis=1)
    assert seen["logit"][:, 0] == pytest.approx((inside * 1.02 + outside * 0.02) / 1.04, abs=1e-5)


def test_training_reports_every_epoch_in_order(run: tuple[Trained, list[Epoch]]) -> None:
    trained, epochs = run
    assert tuple(epochs) == trained.history
    assert [(epoch.number, epoch.of) for epoch in epochs] == [(1, 2), (2, 2)]
    assert epochs[0].seconds < epochs[1].seconds <= trained.seconds
    assert all(np.isfinite(epoch.loss) and 0 <= epoch.val_auc <= 1 for epoch in epochs)


def test_the_best_recipe_learns_from_networks_that_did_not_see_the_image(prepared: Prepared) -> None:
    epochs: list[Epoch] = []
    best = SETTINGS.train.model_copy(update={"recipe": "best", "teachers": 2, "epochs": 1})
    trained = train(prepared, SETTINGS.model_copy(update={"train": best}), epochs.append)
    assert [epoch.teacher for epoch in epochs if isinstance(epoch, Lesson)] == [1, 2]
    assert [type(epoch) for epoch in epochs] == [Lesson, Lesson, Epoch]
    assert trained.history == (epochs[-1],)


def test_a_teacher_sees_no_image_of_a_patient_that_it_judges() -> None:
    patients = ["a", "a", "b", "c", "c", "d", "e"]
    groups = _groups(patients, 2, seed=3)
    assert {len({groups[at] for at, name in enumerate(patients) if name == patient}) for patient in patients} == {1}
    assert set(groups) == {0, 1}


def test_training_learns_phantoms(run: tuple[Trained, list[Epoch]]) -> None:
    assert run[1][-1].val_auc > 0.8


def test_the_same_data_and_seed_give_the_same_network(prepared: Prepared, run: tuple[Trained, list[Epoch]]) -> None:
    images = preparation_of(SETTINGS.model).normalise(prepared.of("test")[0])
    again = train(prepared, SETTINGS)
    assert logits(again.model, images) == pytest.approx(logits(run[0].model, images), abs=1e-3)


@pytest.mark.parametrize("way", get_args(Way))
def test_a_package_is_compared_with_its_network(
    prepared: Prepared, run: tuple[Trained, list[Epoch]], tmp_path: Path, way: Way
) -> None:
    """The check runs 256 images, in this process and in a fresh one."""
    trained = run[0]
    card = trained.card(DataFacts(name="phantom", digest="0", synthetic=True), CodeFacts(version="0"), SETTINGS)
    write_package(tmp_path / "package", keras_model=trained.model, card=card, way=way)
    images = preparation_of(SETTINGS.model).normalise(np.resize(prepared.pixels, (256, 32, 32)))
    package = Package.load(tmp_path / "package")
    assert check(package, trained.model, images) < 1e-4
    if way == "direct":
        return
    amend_card(tmp_path / "package", calibration=Calibration(kind="temperature", scale=2, bias=1))
    with pytest.raises(PackageError, match="predicts differently in a fresh process"):
        check(package, trained.model, images)  # the folder has changed under the loaded package
    with pytest.raises(PackageError, match="LiteRT and Keras differ by"):
        check(package, build(SETTINGS.model), images)


def changed(images: np.ndarray, strength: float, seed: int) -> np.ndarray:
    import tensorflow as tf

    return augment(tf.constant(images), strength, tf.constant([1, seed])).numpy()


def test_augmentation_repeats_and_stays_within_the_grey_levels() -> None:
    """The same seed gives the same images."""
    images = np.random.default_rng(0).random((4, 32, 32, 1), np.float32)
    first, second, other = (changed(images, 1.0, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_augmentation_of_no_strength_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((2, 32, 32, 1), np.float32)
    pixels = rng.integers(0, 256, (2, 32, 32), np.uint8)
    assert np.array_equal(changed(images, 0, seed=1), images)
    assert np.array_equal(reframe(pixels, 0, rng), pixels)
