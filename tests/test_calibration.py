import numpy as np
import pytest

from lungline.evaluation.metrics import Scored, ece, summarise
from lungline.package.answers import label_of
from lungline.package.card import Calibration, Prior, shifted
from lungline.settings import TrainSettings
from lungline.training.calibration import best_cut, choose_prior, choose_thresholds, fit_calibration, moved

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


def at_prevalence(prevalence: float | None, labels: np.ndarray) -> Prior:
    return choose_prior(labels, TrainSettings(prevalence=prevalence))


def test_without_a_prevalence_the_prior_is_the_share_of_the_data() -> None:
    prior = at_prevalence(None, np.r_[np.zeros(30, int), np.ones(70, int)])
    assert (prior.calibrated, prior.share, prior.shift, prior.target) == (0.7, 0.7, 0.0, None)


def test_where_pneumonia_is_rare_a_shifted_risk_is_its_frequency() -> None:
    logits, labels = drawn(6000, 2.0, share=0.7)
    rare, truth = drawn(20000, 2.0, seed=1, share=0.05)
    calibration, prior = fit_calibration(logits, labels), at_prevalence(0.05, labels)
    assert ece(truth, calibration.probability(rare)) > 0.2
    assert ece(truth, calibration.probability(rare, prior.shift)) < 0.01


def test_a_prior_moves_risks_and_thresholds_together() -> None:
    """Sensitivity and specificity do not depend on the share of pneumonia, so the images keep their labels."""
    logits, labels = drawn(900, 3.6)
    calibration, prior = Calibration(scale=3.6), at_prevalence(0.05, labels)
    plain = choose_thresholds(calibration.probability(logits), labels, SETTINGS)
    rare = choose_thresholds(calibration.probability(logits), labels, SETTINGS, prior=prior)
    assert rare.operating == pytest.approx(shifted(plain.operating, prior.shift))
    assert rare.operating < plain.operating / 3
    before = [label_of(float(p), plain) for p in calibration.probability(logits)]
    after = [label_of(float(p), moved(plain, prior.shift)) for p in calibration.probability(logits, prior.shift)]
    assert before == after


def test_the_limit_of_the_unsure_band_is_for_the_share_of_the_prior() -> None:
    """Normal images that are hard to tell fill the band where nearly all images are normal."""
    random, labels = np.random.default_rng(0), np.r_[np.zeros(400, int), np.ones(3600, int)]
    risks = 1 / (1 + np.exp(-np.where(labels, random.normal(1.5, 3, 4000), random.normal(-0.6, 0.5, 4000))))
    prior = at_prevalence(0.02, labels)
    weights = np.where(labels, 0.02 / 0.9, 0.98 / 0.1)
    shares: list[float] = []
    for given in (prior, None):
        thresholds = moved(choose_thresholds(risks, labels, SETTINGS, prior=given), -given.shift if given else 0.0)
        shares.append(float(np.average((risks >= thresholds.low) & (risks < thresholds.high), weights=weights)))
    assert shares[0] <= SETTINGS.unsure_rate + 0.001
    assert shares[1] > SETTINGS.unsure_rate + 0.1
    assert "at a share of 2.0% positive" in choose_thresholds(risks, labels, SETTINGS, prior=prior).chosen


def test_the_calibration_error_of_shifted_risks_is_that_at_the_prior() -> None:
    """A test split has the share of the training data; compared with that, honest risks would look wrong."""
    logits, labels = drawn(4000, 2.0)
    prior = Prior(calibrated=0.7, share=0.05, chosen="By hand.")
    risks = Calibration(scale=2.0, bias=float(np.log(0.7 / 0.3))).probability(logits, prior.shift)
    cases = [
        Scored(int(label), probability=float(p), predicted="Normal") for label, p in zip(labels, risks, strict=True)
    ]
    thresholds = choose_thresholds(risks, labels, SETTINGS)
    weighted, plain = (summarise(cases, thresholds, prior=given, resamples=0) for given in (prior, None))
    assert (weighted.ece or 1) < 0.02
    assert (plain.ece or 0) > 0.2
    assert (weighted.prior, plain.prior, weighted.auc) == (0.05, None, plain.auc)
