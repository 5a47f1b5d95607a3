"""Estimates of the share of pneumonia among images without labels."""

import numpy as np
import pytest

from lungline.package.card import log_odds, shifted
from lungline.site_validation.share import ShareEstimate, bbse, em, likelihood_ratios
from lungline.training.calibration import fit_calibration, share_of

CALIBRATED = 0.7
CONFUSION = {"tp": 470, "fn": 30, "tn": 180, "fp": 20}


def drawn(count: int, share: float, seed: int, apart: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Risks that are calibrated where the share is 0.7, of images with another share, and the true labels."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(int)
    logits = apart * random.normal(np.where(labels == 1, apart, -apart) / 2, 1.0)
    return 1 / (1 + np.exp(-(logits + np.log(CALIBRATED / (1 - CALIBRATED))))), labels


def logits_of(count: int, share: float, seed: int, apart: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, off scale and centre as those of a network are, and labels."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(int)
    return 3 * random.normal(np.where(labels == 1, apart, -apart) / 2, 1.0) + 2, labels


def by_iteration(risks: np.ndarray, calibrated: float, steps: int = 5000) -> float:
    """The EM algorithm as Saerens, Latinne and Decaestecker wrote it down."""
    share = calibrated
    for _ in range(steps):
        sick = risks * share / calibrated
        well = (1 - risks) * (1 - share) / (1 - calibrated)
        share = float(np.mean(sick / (sick + well)))
    return share


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_the_largest_likelihood_is_where_em_ends(share: float) -> None:
    risks, _ = drawn(400, share, seed=3)
    assert em(risks, CALIBRATED, np.arange(400)).value == pytest.approx(by_iteration(risks, CALIBRATED), abs=1e-5)


@pytest.mark.parametrize("share", [0.03, 0.2, 0.6])
def test_intervals_hold_the_true_share_as_often_as_they_say(share: float) -> None:
    """In 60 sites of 300 images, 95 % intervals may miss the share of the site's patients a few times."""
    hits = {"em": 0, "bbse": 0}
    for seed in range(60):
        risks, labels = drawn(300, share, seed)
        patients = np.arange(300)
        positive = np.random.default_rng(seed + 1000).random(300) < np.where(labels == 1, 0.94, 0.1)
        for estimate in (em(risks, CALIBRATED, patients, seed=seed), bbse(positive, CONFUSION, patients, seed)):
            assert estimate is not None
            hits[estimate.method] += estimate.low <= share <= estimate.high
    assert min(hits.values()) >= 52, hits


def test_the_mean_risk_is_no_estimate() -> None:
    risks, labels = drawn(2000, 0.05, seed=1, apart=1.5)
    estimate = em(risks, CALIBRATED, np.arange(2000))
    assert risks.mean() > 2 * labels.mean()
    assert estimate.value == pytest.approx(labels.mean(), abs=0.03)


def test_a_site_without_any_pneumonia_is_estimated_near_0() -> None:
    risks, _ = drawn(300, 0.0, seed=2)
    estimate = em(risks, CALIBRATED, np.arange(300))
    assert estimate.low <= estimate.value < 0.02
    assert estimate.high < 0.05


def test_draws_that_agree_at_the_edge_are_no_certainty() -> None:
    """Every resample of images that all look normal has its largest likelihood at 0."""
    estimate = em(np.full(120, 0.3), CALIBRATED, np.arange(120))
    assert estimate.value < 1e-5
    assert estimate.high == pytest.approx(0.019, abs=0.002)


def test_images_of_one_patient_widen_the_interval() -> None:
    risks, _ = drawn(100, 0.3, seed=4)
    once = em(risks, CALIBRATED, np.arange(100))
    often = em(np.tile(risks, 8), CALIBRATED, np.tile(np.arange(100), 8))
    alone = em(np.tile(risks, 8), CALIBRATED, np.arange(800))
    assert often.value == pytest.approx(once.value, abs=1e-6)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.15)
    assert alone.high - alone.low < 0.5 * (often.high - often.low)


def test_a_calibration_on_few_images_widens_the_interval() -> None:
    """With 60 validation images the slope is uncertain; the intervals must still hold the share."""
    held = alone = 0
    for seed in range(60):
        logits, labels = logits_of(60, CALIBRATED, seed)
        calibration, calibrated = fit_calibration(logits, labels), share_of(labels)
        site, _ = logits_of(300, 0.1, seed + 500)
        risks, patients = calibration.probability(site), np.arange(300)
        estimate = em(risks, calibrated, patients, calibration)
        held += estimate.low <= 0.1 <= estimate.high
        without = em(risks, calibrated, patients)
        alone += without.low <= 0.1 <= without.high
        assert estimate.high - estimate.low > 0.99 * (without.high - without.low)
    assert held >= 54
    assert alone < held


def test_the_uncertainty_of_a_calibration_is_that_of_repeating_it() -> None:
    """At a fixed share of pneumonia, relative to which the bias counts."""
    sites = [logits_of(200, CALIBRATED, seed, apart=1.0) for seed in range(300)]
    fits = [(fit_calibration((logits - 2) / 3, labels), share_of(labels)) for logits, labels in sites]
    stated = np.mean([fit.uncertainty for fit, _ in fits if fit.uncertainty], axis=0)
    pairs = np.array([(fit.scale, fit.bias - log_odds(share)) for fit, share in fits])
    seen = np.cov(pairs.T)
    assert stated[0] == pytest.approx(seen[0, 0], rel=0.25)
    assert stated[2] == pytest.approx(seen[1, 1], rel=0.25)


def test_likelihood_ratios_do_not_depend_on_the_share_of_the_calibration() -> None:
    shift = float(np.log(0.2 / 0.8) - np.log(CALIBRATED / (1 - CALIBRATED)))
    moved = np.array([shifted(risk, shift) for risk in (0.1, 0.5, 0.9)])
    assert likelihood_ratios(moved, 0.2) == pytest.approx(likelihood_ratios(np.array([0.1, 0.5, 0.9]), CALIBRATED))


@pytest.mark.parametrize("confusion", [{}, {"tp": 9, "fn": 1}, {"tp": 5, "fn": 5, "fp": 50, "tn": 50}])
def test_without_a_useful_confusion_matrix_there_is_no_black_box_estimate(confusion: dict[str, int]) -> None:
    assert bbse(np.ones(100, bool), confusion, np.arange(100)) is None


def test_intervals_that_overlap_are_not_apart() -> None:
    first, second, third = (
        ShareEstimate(method="em", value=value, low=value - 0.1, high=value + 0.1, images=100)
        for value in (0.3, 0.45, 0.7)
    )
    assert first.apart_from(second) == 0
    assert first.apart_from(third) == third.apart_from(first) == pytest.approx(0.2)
