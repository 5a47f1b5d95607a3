import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungline.errors import DataError
from lungline.evaluation.metrics import Scored, auc, ece, summarise
from lungline.package.card import Thresholds
from lungline.package.package import label_of

THRESHOLDS = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")


def scored(*pairs: tuple[int, float | None]) -> list[Scored]:
    return [Scored(y) if p is None else Scored(y, probability=p, called=label_of(p, THRESHOLDS)) for y, p in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_fields_own(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, found = random.integers(0, 2, 300), np.round(random.random(300), 2)  # rounding makes ties
    assert auc(labels, found) == pytest.approx(roc_auc_score(labels, found), abs=1e-12)


def test_calibration_error_is_0_where_probability_is_frequency_and_1_where_it_is_certain_and_wrong() -> None:
    assert ece(np.array([0, 1, 0, 1]), np.full(4, 0.5)) == 0
    assert ece(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 0.0, 0.0])) == 1


def test_figures_are_taken_at_the_operating_point_of_the_card() -> None:
    found = summarise(scored((0, 0.1), (0, 0.6), (1, 0.4), (1, 0.9), (1, 0.8), (1, None)), THRESHOLDS)
    assert (found.n, found.refused) == (5, 1)
    assert (found.accuracy, found.sensitivity, found.specificity) == (3 / 5, 2 / 3, 1 / 2)
    assert found.confusion == {"tp": 2, "fn": 1, "tn": 1, "fp": 1}
    assert found.unsure_rate == 2 / 5
    assert (found.sensitivity_decided, found.specificity_decided) == (1, 1)
    assert found.per_class["PNEUMONIA"] == {"Normal": 0, "Unsure": 1, "Pneumonia": 2}


def test_intervals_hold_their_figure_and_repeat() -> None:
    random = np.random.default_rng(1)
    rows = scored(*((int(y), float(np.clip(0.3 + 0.4 * y + random.normal(0, 0.2), 0, 1))) for y in np.arange(200) % 2))
    first, second = summarise(rows, THRESHOLDS, seed=5), summarise(rows, THRESHOLDS, seed=5)
    assert first == second
    for name in ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate"):
        interval = first.intervals[name]
        assert interval.low <= getattr(first, name) <= interval.high
        assert interval.low < interval.high


def test_one_class_has_no_auc_but_has_its_own_figures() -> None:
    found = summarise(scored((1, 0.9), (1, 0.2)), THRESHOLDS)
    assert found.auc is None
    assert found.specificity is None
    assert found.sensitivity == 0.5


def test_a_set_of_refused_pictures_has_no_figures() -> None:
    with pytest.raises(DataError, match="All 2 images were refused"):
        summarise(scored((1, None), (0, None)), THRESHOLDS)
