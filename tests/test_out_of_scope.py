"""The checks on real X-rays: no confident label on what is no upright frontal chest X-ray."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from lungline.evaluation.out_of_scope import OutOfScopeLabels, measure
from lungline.imaging.decoding import decode
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds
from lungline.package.package import Package
from lungline.settings import ModelSettings
from lungline.training.checks import fit_checks
from lungline.training.export import write_package
from lungline.training.lungs import lung_model
from lungline.training.network import build
from lungline.training.ood_check import draw_lesson
from lungline.training.train import preparation_of

REAL = Path(__file__).parents[2] / "shared/data/chest_xray.zip"
PER_CHANGE = 20
"""Normal X-rays of the test split; each may be mistaken at most once in ten."""

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"the real chest X-rays are not at {REAL}")


def files(split: str, kind: str, count: int) -> list[bytes]:
    """Evenly spaced files of a class, over the whole split."""
    with zipfile.ZipFile(REAL) as archive:
        names = sorted(name for name in archive.namelist() if f"/{split}/{kind}/" in name and name.endswith(".jpeg"))
        return [archive.read(names[int(at)]) for at in np.linspace(0, len(names) - 1, count)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A network with ImageNet's features and fitted checks, which has a confident label for every chest."""
    settings = ModelSettings()
    preparation = preparation_of(settings)

    def pixels(split: str, count: int) -> np.ndarray:
        chosen = [data for kind in ("NORMAL", "PNEUMONIA") for data in files(split, kind, count)]
        return np.stack([preparation.resize(decode(data)) for data in chosen])

    network = build(settings)
    train, val = pixels("train", 450), pixels("val", 90)
    check, population = fit_checks(network, train, val, preparation, draw_lesson(train, val, seed=0))
    card = Card(
        preparation=preparation,
        thresholds=Thresholds(low=0, high=0, operating=0, chosen="Every chest is pneumonia."),
        chest=check,
        population=population,
        lungs=lung_model(),
        data=DataFacts(name="chest_xray", digest="0", synthetic=False),
        code=CodeFacts(version="0"),
    )
    folder = tmp_path_factory.mktemp("package") / "1"
    write_package(folder, keras_model=network, card=card, way="direct")
    return Package.load(folder)


@pytest.fixture(scope="module")
def labels(package: Package) -> dict[str, OutOfScopeLabels]:
    return {row.change: row for row in measure(package, files("test", "NORMAL", PER_CHANGE))}


@pytest.mark.parametrize(
    "change",
    [
        "screenshot",
        "doubled",
        "halved",
        "mirrored",
        "on its side",
        "upside down",
        "negative",
    ],
)
def test_changed_x_rays_get_no_confident_label(labels: dict[str, OutOfScopeLabels], change: str) -> None:
    assert labels[change].confident <= PER_CHANGE // 10, labels[change]


def test_most_photographs_of_a_screen_get_no_confident_label(labels: dict[str, OutOfScopeLabels]) -> None:
    """Where a dark room and bezel are cut as margins, what is left is the X-ray."""
    assert labels["photograph of a screen"].confident <= PER_CHANGE // 4, labels


@pytest.mark.parametrize("change", ["plain", "letterboxed"])
def test_x_rays_and_letterboxed_x_rays_are_not_doubted(labels: dict[str, OutOfScopeLabels], change: str) -> None:
    assert labels[change].confident >= PER_CHANGE - 1, labels[change]


def test_few_x_rays_of_either_class_are_doubted(package: Package) -> None:
    data = files("test", "NORMAL", 50) + files("test", "PNEUMONIA", 50)
    preparation = package.card.preparation
    predictions = package.predict(np.stack([preparation.apply(decode(file)) for file in data]))
    assert sum(bool(prediction.doubts) for prediction in predictions) <= 6
