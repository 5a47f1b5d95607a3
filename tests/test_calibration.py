import numpy as np
import pytest

from lungline.evaluation.metrics import ece
from lungline.package.package import label_of
from lungline.settings import TrainSettings
from lungline.training.calibration import best_cut, choose_thresholds, fit_calibration

SETTINGS = TrainSettings()


def drawn(count: int, apart: float, seed: int = 0, share: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels where the true probability is known to be sigmoid(apart * logit)."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(int)
    return random.normal(np.where(labels == 1, apart, -apart) / 2, 1.0), labels


def test_calibration_turns_overconfident_logits_into_frequencies() -> None:
    logits, labels = drawn(4000, 2.0)
    overconfident = logits * 8 + 5
    calibration = fit_calibration(overconfident[:2000], labels[:2000])
    before = ece(labels[2000:], 1 / (1 + np.exp(-overconfident[2000:])))
    after = ece(labels[2000:], calibration.probability(overconfident[2000:]))
    assert before > 0.1
    assert after < 0.03


def test_calibration_of_a_perfect_split_stays_finite() -> None:
    """It also keeps the order of the logits."""
    logits, labels = np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
    probability = fit_calibration(logits, labels).probability(logits)
    assert np.all(np.diff(probability) > 0)
    assert 0 < probability.min() < probability.max() < 1


def test_logits_that_point_the_wrong_way_are_left_alone() -> None:
    logits, labels = drawn(200, 2.0)
    assert fit_calibration(-logits, labels).kind == "none"


@pytest.mark.parametrize("seed", range(6))
def test_outside_the_unsure_band_the_targets_hold(seed: int) -> None:
    logits, labels = drawn(3000, 3.6, seed)
    p = 1 / (1 + np.exp(-3.6 * logits))
    thresholds = choose_thresholds(p[:800], labels[:800], SETTINGS)
    predicted = np.array([label_of(float(probability), thresholds) for probability in p[800:]])
    truth = labels[800:]
    decided = predicted != "Unsure"
    assert np.mean(predicted[decided & (truth == 1)] == "Pneumonia") >= SETTINGS.sensitivity - 0.01
    assert np.mean(predicted[decided & (truth == 0)] == "Normal") >= SETTINGS.specificity - 0.03
    assert np.mean(~decided) <= SETTINGS.unsure_rate + 0.03


def test_the_unsure_band_keeps_its_limit() -> None:
    """The limit holds even where the targets for sensitivity and specificity cannot be met."""
    logits, labels = drawn(1000, 0.5)
    p = 1 / (1 + np.exp(-0.5 * logits))
    thresholds = choose_thresholds(p, labels, SETTINGS)
    assert np.mean((p >= thresholds.low) & (p < thresholds.high)) <= SETTINGS.unsure_rate
    assert thresholds.low <= thresholds.operating <= thresholds.high


def test_classes_far_apart_leave_no_band() -> None:
    p, labels = np.r_[np.full(200, 0.01), np.full(300, 0.99)], np.r_[np.zeros(200, int), np.ones(300, int)]
    thresholds = choose_thresholds(p, labels, SETTINGS)
    assert thresholds.low == thresholds.high == thresholds.operating
    assert thresholds.operating == pytest.approx(0.5, abs=0.01)


def test_the_operating_point_balances_the_classes_whatever_their_numbers() -> None:
    p = np.r_[np.linspace(0.0, 0.6, 100), np.linspace(0.4, 1.0, 1000)]
    labels = np.r_[np.zeros(100, int), np.ones(1000, int)]
    assert 0.4 <= best_cut(p, labels) <= 0.6


def test_corrupted_images_move_the_operating_point_half_as_far() -> None:
    """Images whose risk rises when corrupted raise the operating point by half as much."""
    p, labels = np.r_[np.full(200, 0.1), np.full(300, 0.9)], np.r_[np.zeros(200, int), np.ones(300, int)]
    moved = np.r_[np.full(200, 0.7), np.full(300, 0.98)][np.newaxis]
    plain = choose_thresholds(p, labels, SETTINGS).operating
    both = choose_thresholds(p, labels, SETTINGS, moved).operating
    assert plain < both < best_cut(moved[0], labels)


def test_the_card_says_how_thresholds_were_chosen() -> None:
    logits, labels = drawn(300, 3.0)
    chosen = choose_thresholds(1 / (1 + np.exp(-logits)), labels, SETTINGS).chosen
    assert "300 validation images" in chosen
    assert "0.97" in chosen
