import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungline.errors import DataError
from lungline.evaluation.metrics import Scored, auc, ece, summarise
from lungline.evaluation.scoring import SCORES, Scores
from lungline.package.answers import label_of
from lungline.package.card import Thresholds

THRESHOLDS = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")


def scored(*pairs: tuple[int, float | None]) -> list[Scored]:
    return [Scored(y) if p is None else Scored(y, probability=p, predicted=label_of(p, THRESHOLDS)) for y, p in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, risks = random.integers(0, 2, 300), np.round(random.random(300), 2)  # rounding makes ties
    assert auc(labels, risks) == pytest.approx(roc_auc_score(labels, risks), abs=1e-12)


def test_the_range_of_the_calibration_error() -> None:
    """It is 0 where probabilities equal frequencies, and 1 where they are certain and wrong."""
    assert ece(np.array([0, 1, 0, 1]), np.full(4, 0.5)) == 0
    assert ece(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 0.0, 0.0])) == 1


def test_metrics_are_taken_at_the_operating_point() -> None:
    evaluation = summarise(scored((0, 0.1), (0, 0.6), (1, 0.4), (1, 0.9), (1, 0.8), (1, None)), THRESHOLDS)
    assert (evaluation.n, evaluation.refused) == (5, 1)
    assert (evaluation.accuracy, evaluation.sensitivity, evaluation.specificity) == (3 / 5, 2 / 3, 1 / 2)
    assert evaluation.confusion == {"tp": 2, "fn": 1, "tn": 1, "fp": 1}
    assert evaluation.unsure_rate == 2 / 5
    assert (evaluation.sensitivity_decided, evaluation.specificity_decided) == (1, 1)
    assert evaluation.per_class["PNEUMONIA"] == {"Normal": 0, "Unsure": 1, "Pneumonia": 2}


def test_intervals_contain_their_metric_and_repeat() -> None:
    random = np.random.default_rng(1)
    rows = scored(*((int(y), float(np.clip(0.3 + 0.4 * y + random.normal(0, 0.2), 0, 1))) for y in np.arange(200) % 2))
    first, second = summarise(rows, THRESHOLDS, seed=5), summarise(rows, THRESHOLDS, seed=5)
    assert first == second
    for name in ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate"):
        interval = first.intervals[name]
        assert interval.low <= getattr(first, name) <= interval.high
        assert interval.low < interval.high


def test_one_class_has_no_auc_but_other_metrics() -> None:
    evaluation = summarise(scored((1, 0.9), (1, 0.2)), THRESHOLDS)
    assert evaluation.auc is None
    assert evaluation.specificity is None
    assert evaluation.sensitivity == 0.5


def test_refused_images_alone_have_no_metrics() -> None:
    with pytest.raises(DataError, match="All 2 images were refused"):
        summarise(scored((1, None), (0, None)), THRESHOLDS)


def test_scores_of_an_earlier_release_are_read(tmp_path: Path) -> None:
    """In scores.json the predicted label was once named `called`."""
    cases = tuple(scored((0, 0.1), (1, 0.9)))
    scores = Scores(summarise(cases, THRESHOLDS), cases)
    scores.save(tmp_path)
    assert Scores.load(tmp_path) == scores
    stored = json.loads((tmp_path / SCORES).read_text())
    earlier = [{("called" if name == "predicted" else name): value for name, value in case.items()} for case in stored]
    (tmp_path / SCORES).write_text(json.dumps(earlier))
    assert Scores.load(tmp_path) == scores
