import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from lungline.datasets import phantom
from lungline.evaluation import plots
from lungline.evaluation.metrics import Case, Evaluation, Scored, summarise
from lungline.evaluation.report import model_card, slices, write_report
from lungline.evaluation.robustness import CORRUPTIONS, STRENGTHS, Robustness, measure
from lungline.evaluation.scoring import score
from lungline.package.package import Package
from tests.support.tiny_package import write_tiny_package

KINDS = ("normal", "bacterial", "normal", "viral")
CASES = [
    Case(at % 2, phantom.jpeg(at, opacities=bool(at % 2), size=(96, 160)[at % 3 > 0]), f"case {at}", KINDS[at % 4])
    for at in range(24)
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package") / "tiny"
    write_tiny_package(folder)
    return Package.load(folder)


@pytest.fixture(scope="module")
def scored(package: Package) -> list[Scored]:
    return score(package, [*CASES, Case(1, b"no image", "broken")])


@pytest.fixture(scope="module")
def evaluation(package: Package, scored: list[Scored]) -> Evaluation:
    return summarise(scored, package.card.thresholds)


@pytest.fixture(scope="module")
def robustness(package: Package) -> Robustness:
    return measure(package, CASES, most=3)


def test_each_corruption_changes_the_image() -> None:
    """There are ten, at two strengths."""
    pixels = phantom.draw(np.random.default_rng(0), opacities=True, size=128)
    assert (len(CORRUPTIONS), len(STRENGTHS)) == (10, 2)
    for name, corrupt in CORRUPTIONS.items():
        for strength in STRENGTHS:
            spoilt = corrupt(pixels, strength, np.random.default_rng(1))
            assert spoilt.shape == pixels.shape, name
            assert spoilt.dtype == np.uint8, name
            assert np.abs(spoilt.astype(int) - pixels).mean() > 0.5, name


def test_the_stronger_form_changes_more() -> None:
    pixels = phantom.draw(np.random.default_rng(0), opacities=True, size=128).astype(int)
    for name, corrupt in CORRUPTIONS.items():
        weak, strong = (
            np.abs(corrupt(pixels.astype(np.uint8), s, np.random.default_rng(1)) - pixels).mean() for s in STRENGTHS
        )
        assert strong > weak, name


def test_robustness_has_a_row_for_each_corruption_and_their_mean(robustness: Robustness) -> None:
    assert [(row.corruption, row.strength) for row in robustness.rows] == [(n, s) for n in CORRUPTIONS for s in (1, 2)]
    assert all(row.n == 6 for row in robustness.rows)
    assert robustness.auc == pytest.approx(np.mean([row.auc or 0.0 for row in robustness.rows]))


def test_robustness_repeats(package: Package, robustness: Robustness) -> None:
    assert measure(package, CASES, most=3) == robustness


def test_the_page_is_complete_and_holds_every_metric(
    package: Package, scored: list[Scored], evaluation: Evaluation, robustness: Robustness, tmp_path: Path
) -> None:
    images = [case.data for case in CASES]
    page = write_report(tmp_path, package, evaluation, scored, robustness=robustness, images=images).read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.count("<img") == 5 + 12  # the curves, and the worst errors
    for value in evaluation.metrics().values():
        assert f"{value:.4f}" in page
    for word in ("Not a medical device", "phantoms", "bacterial", "viral", "compression", "1 refused"):
        assert word in page


def test_the_page_never_shows_file_names(
    package: Package, scored: list[Scored], evaluation: Evaluation, tmp_path: Path
) -> None:
    page = write_report(tmp_path, package, evaluation, scored, images=[case.data for case in CASES]).read_text()
    assert "case 1" not in page
    assert "case 1" not in (tmp_path / "model_card.md").read_text()


def test_the_model_card_says_what_the_page_says(
    package: Package, scored: list[Scored], evaluation: Evaluation, robustness: Robustness
) -> None:
    text = model_card(package.card, evaluation, scored, robustness)
    for value in evaluation.metrics().values():
        assert f"{value:.4f}" in text
    for word in (package.card.thresholds.chosen, "Not a medical device", "drawn phantoms", "| bacterial |", "| tilt |"):
        assert word in text


def test_slices_cover_every_image_by_kind_and_size(package: Package, scored: list[Scored]) -> None:
    parts = slices(scored, package.card)
    assert sum(parts[kind].n for kind in ("normal", "bacterial", "viral")) == 24
    assert sum(part.n for name, part in parts.items() if name.startswith("shortest side")) == 24


def test_a_report_of_one_class_omits_what_needs_two(package: Package, tmp_path: Path) -> None:
    one_class = [case for case in score(package, CASES) if case.label == 1]
    page = write_report(tmp_path, package, summarise(one_class, package.card.thresholds), one_class).read_text()
    assert "ROC curve" not in page
    assert "Confusion matrix" in page


@pytest.mark.parametrize("seed", range(3))
def test_the_roc_curve_equals_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, risks = random.integers(0, 2, 200), np.round(random.random(200), 1)
    false, true, _ = roc_curve(labels, risks, drop_intermediate=False)
    grid = np.linspace(0, 1, 201)
    assert plots.roc(labels, risks) == pytest.approx(np.interp(grid, false, true), abs=1e-9)
