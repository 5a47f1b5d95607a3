"""The comparison of second opinions with answers."""

import pytest

from lungline.evaluation.disagreement import Agreement, LabelPair, Pair, RiskBand, compare, reading_list


def pair(name: str, answer: float | None, opinion: float | None, verdict: str | None = None, waited: float = 1) -> Pair:
    def label(risk: float | None) -> str:
        return "Refused" if risk is None else "Pneumonia" if risk >= 0.5 else "Normal"

    return Pair(name, label(answer), answer, label(opinion), opinion, verdict, waited, waited / 2)


PAIRS = [
    pair("same", 0.9, 0.8, "Pneumonia", 10),
    pair("near", 0.45, 0.55, waited=20),
    pair("far", 0.95, 0.05, waited=30),
    pair("read", 0.1, 0.99, "Normal", 40),
    pair("refused", 0.2, None, waited=50),
]


def test_disagreement_is_counted_by_label_and_risk() -> None:
    comparison = compare(PAIRS)
    assert (comparison.results, comparison.different, comparison.share) == (5, 4, 0.8)
    assert LabelPair("Normal", "Pneumonia", 2) in comparison.labels
    assert LabelPair("Normal", "Refused", 1) in comparison.labels
    assert sum(each.uploads for each in comparison.labels) == 5
    assert comparison.bands[9] == RiskBand(0.9, 1.0, 2, 1)
    assert comparison.shift == pytest.approx((-0.1 + 0.1 - 0.9 + 0.89) / 4)
    assert comparison.distance == pytest.approx((0.1 + 0.1 + 0.9 + 0.89) / 4)


def test_both_are_compared_with_readers_who_have_spoken() -> None:
    assert compare(PAIRS).readers == Agreement(uploads=2, answer=2, opinion=1)


def test_times_are_quantiles_and_a_mean() -> None:
    comparison = compare(PAIRS)
    assert (comparison.waited_p50, comparison.waited_p99, comparison.worked_mean) == (30, 50, 15)


def test_without_second_opinions_there_is_no_share() -> None:
    comparison = compare([])
    assert (comparison.share, comparison.shift, comparison.waited_p50) == (None, None, None)


def test_the_reading_list_begins_with_what_nobody_has_read() -> None:
    assert [each.identity for each in reading_list(PAIRS, 3)] == ["refused", "far", "near"]
    assert [each.identity for each in reading_list(PAIRS, 9)][-1] == "read"
