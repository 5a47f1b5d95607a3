import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lungline.datasets import phantom
from lungline.datasets.phantom_anatomy import Patient, lung
from lungline.datasets.phantom_findings import EXTRAS, Extra, added
from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation


def drawn(seed: int, *, opacities: bool, size: int = 64, **arguments: object) -> np.ndarray:
    return phantom.draw(np.random.default_rng(seed), opacities=opacities, size=size, **arguments)  # pyright: ignore[reportArgumentType] - passed on


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs in which the image with opacities has the higher score."""
    with_, without = scores[labels == 1], scores[labels == 0]
    return float((with_[:, None] > without[None, :]).mean() + (with_[:, None] == without[None, :]).mean() / 2)


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**48), st.booleans(), st.sampled_from([28, 64, 97, 224]))
def test_any_seed_gives_an_image_within_the_contract(seed: int, opacities: bool, size: int) -> None:
    pixels = drawn(seed, opacities=opacities, size=size)
    assert pixels.shape == (size, size)
    assert pixels.dtype == np.uint8
    # The data contract's limits for an image.
    assert int(pixels.max()) - int(pixels.min()) >= 32
    assert 10 <= pixels.mean() <= 245


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert phantom.jpeg(7, opacities=True) == phantom.jpeg(7, opacities=True)
    assert len({phantom.jpeg(seed, opacities=False) for seed in range(20)}) == 20


def test_drawing_in_threads_gives_the_same_images() -> None:
    expected = [phantom.jpeg(seed, opacities=True) for seed in range(8)]
    files: dict[int, bytes] = {}

    def work(seed: int) -> None:
        files[seed] = phantom.jpeg(seed, opacities=True)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [files[seed] for seed in range(8)] == expected


def test_a_jpeg_passes_the_decoder() -> None:
    image = decode(phantom.jpeg(3, opacities=False, size=300))
    assert (image.format, image.width, image.height, image.colour) == ("jpeg", 300, 300, 0.0)


@pytest.mark.parametrize("pattern", phantom.PATTERNS)
def test_opacities_make_the_lungs_denser_and_nothing_else(pattern: phantom.Pattern) -> None:
    patient = Patient.drawn(np.random.default_rng(0))
    x, y = np.meshgrid(np.linspace(-1, 1, 96, dtype=np.float32), np.linspace(-1, 1, 96, dtype=np.float32))
    shades = np.stack(
        [phantom._opacity(np.random.default_rng(seed), pattern, patient, x, y) for seed in range(20)]  # noqa: SLF001 - the shape itself
    )
    assert shades.min() >= 0
    assert shades.max() <= 1
    assert (shades.max(axis=(1, 2)) > 0.3).all()


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_finding_whitens_its_place_and_nothing_else(extra: Extra) -> None:
    """Of the attenuation before the film; an effusion and a nodule are in the lungs, a pacemaker is of metal."""
    patient = Patient.drawn(np.random.default_rng(0))
    x, y = np.meshgrid(np.linspace(-1, 1, 96, dtype=np.float32), np.linspace(-1, 1, 96, dtype=np.float32))
    air = lung(patient, x, y, -1) + lung(patient, x, y, 1)
    shades = np.stack([added(np.random.default_rng(seed), extra, patient, air, x, y) for seed in range(20)])
    assert shades.min() >= 0
    assert (shades.max(axis=(1, 2)) > (2 if extra == "device" else 0.3)).all()
    assert (shades > 0.1).mean() < 0.15
    if extra != "device":
        assert (shades <= air).all()


def test_findings_are_drawn_beside_each_other() -> None:
    plain = drawn(4, opacities=True).astype(int)
    both = drawn(4, opacities=True, extras=("effusion", "device")).astype(int)
    assert np.abs(both - plain).max() > 60
    assert drawn(4, opacities=True, extras=()).tolist() == plain.tolist()


def test_a_patient_has_one_chest_in_all_images() -> None:
    first, second = (Patient.drawn(np.random.default_rng(seed)) for seed in (1, 2))
    assert Patient.drawn(np.random.default_rng(1)) == first
    assert first != second
    same = [drawn(seed, opacities=False, patient=first).astype(float) for seed in range(30)]
    others = [drawn(seed, opacities=False, patient=second).astype(float) for seed in range(30)]
    assert np.abs(np.mean(same, axis=0) - np.mean(others, axis=0)).max() > 15


def test_brightness_alone_does_not_tell_the_classes_apart() -> None:
    labels = np.arange(600) % 2
    images = [drawn(seed, opacities=bool(label)) for seed, label in enumerate(labels)]
    for statistic in (np.mean, np.std, np.median, np.max):
        scores = np.array([statistic(pixels) for pixels in images])
        assert 0.3 < auc(scores, labels) < 0.7


def test_the_lungs_tell_the_classes_apart() -> None:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = np.arange(900) % 2
    pixels = np.stack([drawn(seed, opacities=bool(label), size=32) for seed, label in enumerate(labels)])
    inputs = Preparation(32, normalisation="equalise").normalise(pixels).reshape(900, -1)
    model = make_pipeline(PCA(80, random_state=0), LogisticRegression(max_iter=1000))
    model.fit(inputs[:600], labels[:600])
    # A linear model on thumbnails does better than chance; a small network on 64 pixels reaches 0.99.
    assert auc(model.decision_function(inputs[600:]), labels[600:]) > 0.75


def test_drawing_takes_little_time() -> None:
    def seconds() -> float:
        start = time.thread_time()
        drawn(1, opacities=True, size=224)
        return time.thread_time() - start

    assert min(seconds() for _ in range(10)) < 0.015
