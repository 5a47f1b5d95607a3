"""How the second opinions of a version differ from the answers to the same uploads.

Each pair is one upload: the answer that serves, the second opinion, and the reader's verdict where there is one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

BANDS = 10
"""Bands of the answer's risk, each a tenth wide."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The answer to an upload, and the second opinion on it; risks are None for images that were refused.

    `waited` are the milliseconds from the arrival of the event to the second opinion, `worked` those of the work in it
    without the fetch; None where it was not measured.
    """

    identity: str
    answer: str
    answer_risk: float | None
    opinion: str
    opinion_risk: float | None
    verdict: str | None = None
    waited: float | None = None
    worked: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the labels are two."""
        return self.answer != self.opinion

    @property
    def distance(self) -> float:
        """By how much the risks differ; that of a refusal from any risk is 1."""
        if self.answer_risk is None or self.opinion_risk is None:
            return float(self.answer_risk is not self.opinion_risk)
        return abs(self.answer_risk - self.opinion_risk)


@dataclass(frozen=True, slots=True)
class LabelPair:
    """How many uploads have one label in the answer and the other in the second opinion."""

    answer: str
    opinion: str
    uploads: int


@dataclass(frozen=True, slots=True)
class RiskBand:
    """The uploads whose answer has a risk from `low` to below `high`, and how many of them are labelled otherwise."""

    low: float
    high: float
    uploads: int
    different: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the uploads with a verdict of a reader, on how many the answer and the second opinion agree with it."""

    uploads: int
    answer: int
    opinion: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences in numbers.

    `shift` is the mean of the second opinion's risk less the answer's, `distance` the mean difference either way. Times
    are milliseconds; None where nothing was measured.
    """

    results: int
    different: int
    labels: tuple[LabelPair, ...]
    bands: tuple[RiskBand, ...]
    shift: float | None
    distance: float | None
    readers: Agreement
    waited_p50: float | None
    waited_p99: float | None
    worked_mean: float | None

    @property
    def share(self) -> float | None:
        """The share of second opinions with another label; None without any."""
        return self.different / self.results if self.results else None


def compare(pairs: Iterable[Pair]) -> Comparison:
    """Compare second opinions with the answers to the same uploads."""
    every = list(pairs)
    risks = [
        (pair.answer_risk, pair.opinion_risk)
        for pair in every
        if pair.answer_risk is not None and pair.opinion_risk is not None
    ]
    waited = sorted(pair.waited for pair in every if pair.waited is not None)
    return Comparison(
        results=len(every),
        different=sum(pair.differs for pair in every),
        labels=_labels(every),
        bands=_bands(every),
        shift=_mean([opinion - answer for answer, opinion in risks]),
        distance=_mean([abs(opinion - answer) for answer, opinion in risks]),
        readers=_readers(every),
        waited_p50=_quantile(waited, 0.5),
        waited_p99=_quantile(waited, 0.99),
        worked_mean=_mean([pair.worked for pair in every if pair.worked is not None]),
    )


def reading_list(pairs: Iterable[Pair], most: int) -> list[Pair]:
    """The uploads with two labels, those whose risks differ most first; what no reader has judged comes before."""
    different = [pair for pair in pairs if pair.differs]
    return sorted(different, key=lambda pair: (pair.verdict is not None, -pair.distance, pair.identity))[:most]


def _labels(pairs: Sequence[Pair]) -> tuple[LabelPair, ...]:
    counted = Counter((pair.answer, pair.opinion) for pair in pairs)
    return tuple(LabelPair(*labels, uploads) for labels, uploads in sorted(counted.items()))


def _bands(pairs: Sequence[Pair]) -> tuple[RiskBand, ...]:
    totals, different = [0] * BANDS, [0] * BANDS
    for pair in pairs:
        if pair.answer_risk is not None:
            band = min(int(pair.answer_risk * BANDS), BANDS - 1)
            totals[band] += 1
            different[band] += pair.differs
    return tuple(
        RiskBand(number / BANDS, (number + 1) / BANDS, totals[number], different[number]) for number in range(BANDS)
    )


def _readers(pairs: Sequence[Pair]) -> Agreement:
    judged = [pair for pair in pairs if pair.verdict is not None]
    return Agreement(
        uploads=len(judged),
        answer=sum(pair.answer == pair.verdict for pair in judged),
        opinion=sum(pair.opinion == pair.verdict for pair in judged),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None
