"""Compare a window of production data with the reference: six tests, with the false alarm rate of all six controlled.

    images      Kolmogorov-Smirnov distance of each image statistic; the largest counts
    embedding   energy distance of the network's embeddings, all axes at once
    score       Kolmogorov-Smirnov distance of the probabilities
    labels      Cramer's V of the labels of findings and Unsure
    unsure      difference of the shares labelled Unsure
    refusals    difference of the shares refused

p-values come from a permutation test (999 permutations of patients between reference and window): exact for every
sample size, for ties, and for several images of one patient. The usual library tests treat images as independent; when
patients return, their false alarm rate is several times the nominal one. Holm's method over the six tests then controls
the share of unchanged windows with any alarm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.imaging.statistics import STATISTICS, ImageStatistics
from lungline.results.records import REFUSED, UNSURE
from lungline.task.reading import default_task


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels of the default task, whether they are there or not, then the other ones in their order."""
    negative, *positives = default_task().labels
    usual = (negative, UNSURE, *positives, REFUSED)
    return (*usual, *sorted({*labels} - {*usual}))


@dataclass(frozen=True, slots=True)
class ComparedResult:
    """One result; a refused image has neither probability nor statistics. `patient` is any identifier."""

    label: str
    probability: float | None = None
    statistics: ImageStatistics | None = None
    patient: str | int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Results as arrays, one row each; missing values are nan.

    `statistics` (n, 11) in the order of STATISTICS, `embedding` (n, 16, or 0 without), `scores` (n,), `labels` (n,)
    texts, `patients` (n,) numbers that rows of one patient share.
    """

    statistics: NDArray[np.float64]
    embedding: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.str_]
    patients: NDArray[np.int64]

    @property
    def counts(self) -> dict[str, int]:
        """The number of results with each label."""
        return {label: int(np.sum(self.labels == label)) for label in ordered(self.labels.tolist())}

    def __len__(self) -> int:
        return len(self.labels)


def sample(results: Iterable[ComparedResult]) -> Sample:
    """The arrays of some results; a result without a patient counts as a patient of its own."""
    rows = list(results)
    width = max((len(row.statistics.embedding) for row in rows if row.statistics), default=0)
    statistics = np.full((len(rows), len(STATISTICS)), np.nan)
    embedding = np.full((len(rows), width), np.nan)
    for at, row in enumerate(rows):
        if row.statistics:
            statistics[at] = [row.statistics.statistics.get(name, np.nan) for name in STATISTICS]
            if len(row.statistics.embedding) == width:
                embedding[at] = row.statistics.embedding
    numbers: dict[str | int, int] = {}
    return Sample(
        statistics=statistics,
        embedding=embedding,
        scores=np.array([np.nan if row.probability is None else row.probability for row in rows], np.float64),
        labels=np.array([row.label for row in rows], np.str_),
        patients=np.array(
            [
                numbers.setdefault(f"row {at}" if row.patient is None else row.patient, len(numbers))
                for at, row in enumerate(rows)
            ],
            np.int64,
        ),
    )


TESTS = ("images", "embedding", "score", "labels", "unsure", "refusals")
# The smallest p is 1 in 1000, which Holm's method over six tests needs for an alarm rate of 0.6 % or more.
PERMUTATIONS = 999
# With fewer results than this on either side no test has any power.
LEAST = 20

Floats = NDArray[np.float64]
Permutations = NDArray[np.float32]
Rows = NDArray[np.bool_]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tested(_Part):
    """The outcome of a test: `distance` in 0..1, and `p`, the chance of at least that distance without drift."""

    p: float
    distance: float
    alarm: bool = False


class StatisticTested(Tested):
    """The outcome for one image statistic, with the medians of both sides; it raises no alarm by itself."""

    reference: float
    field: float


class WindowComparison(_Part):
    """The comparison of a window with the reference. A test with too few results is not among `tests`."""

    tests: dict[str, Tested]
    statistics: dict[str, StatisticTested] = Field(description="Each image statistic by itself.")

    @property
    def alarms(self) -> tuple[str, ...]:
        """The tests that detected drift."""
        return tuple(name for name, test in self.tests.items() if test.alarm)


def compare(reference: Sample, window: Sample, alarm_rate: float, seed: int = 0) -> WindowComparison:
    """Compare a window with the reference; at most a share `alarm_rate` of windows without drift has an alarm."""
    both = _Permuted.of(reference, window, seed)
    statistics, apart = both.statistics()
    distances = both.results() | both.embedding() | ({"images": apart.max(axis=0)} if len(apart) else {})
    tests = {name: _outcome(distances[name]) for name in TESTS if name in distances}
    return WindowComparison(tests=_holm(tests, alarm_rate), statistics=statistics)


@dataclass(frozen=True)
class _Permuted:
    """Reference and window together, with 1000 assignments of rows to the window: the true one, then permutations.

    Each method returns distances (1000,), one for each assignment, the true one first. Tests with too few rows are left
    out.
    """

    reference: Sample
    window: Sample
    deals: Permutations

    @classmethod
    def of(cls, reference: Sample, window: Sample, seed: int) -> "_Permuted":
        """Permute patients, not images."""
        first = int(reference.patients.max(initial=-1)) + 1
        patients = np.concatenate([reference.patients, window.patients + first])
        here, total = len(np.unique(window.patients)), int(patients.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        chosen = np.zeros((PERMUTATIONS + 1, total), np.float32)
        chosen[0, first:] = 1
        for row in chosen[1:]:
            row[rng.choice(total, here, replace=False)] = 1
        return cls(reference, window, chosen[:, patients])

    def statistics(self) -> tuple[dict[str, StatisticTested], Floats]:
        """The outcome for each image statistic, and their distances (11, 1000)."""
        then, now = self.reference.statistics, self.window.statistics
        values = np.concatenate([then, now])
        rows = _whole(values)
        if not self._enough(rows):
            return {}, np.zeros((0, len(self.deals)))
        apart = np.stack([self.smirnov(values[:, at], rows) for at in range(len(STATISTICS))])
        medians = np.nanmedian(then, axis=0), np.nanmedian(now, axis=0)
        outcomes = {
            name: StatisticTested(
                **_outcome(apart[at]).model_dump(), reference=float(medians[0][at]), field=float(medians[1][at])
            )
            for at, name in enumerate(STATISTICS)
        }
        return outcomes, apart

    def embedding(self) -> dict[str, Floats]:
        """The distance of the embeddings, if both have embeddings of the same width."""
        then, now = self.reference.embedding, self.window.embedding
        if not then.shape[1] == now.shape[1] > 0:
            return {}
        values = np.concatenate([then, now])
        rows = _whole(values)
        return {"embedding": self.energy(values, rows)} if self._enough(rows) else {}

    def results(self) -> dict[str, Floats]:
        """The distances of scores, labels and shares."""
        texts: list[str] = [*self.reference.labels.tolist(), *self.window.labels.tolist()]
        places = {label: at for at, label in enumerate(ordered(texts))}
        labels = np.array([places[text] for text in texts], np.int64)
        scores: Floats = np.concatenate([self.reference.scores, self.window.scores])
        predicted = _whole(scores[:, None])
        distances: dict[str, Floats] = {}
        if self._enough(predicted):
            distances["score"] = self.smirnov(scores, predicted)
            distances["labels"] = self.mix(labels, predicted)
            distances["unsure"] = self.share(np.asarray(labels == places[UNSURE]), predicted)
        if self._enough(every := np.ones(len(labels), np.bool_)):
            distances["refusals"] = self.share(np.asarray(labels == places[REFUSED]), every)
        return distances

    def _enough(self, rows: Rows) -> bool:
        here = int(rows[len(self.reference) :].sum())
        return min(here, int(rows.sum()) - here) >= LEAST

    def smirnov(self, values: Floats, rows: Rows) -> Floats:
        """Kolmogorov-Smirnov: the largest difference of the two cumulative distributions."""
        order = np.flatnonzero(rows)[np.argsort(values[rows], kind="stable")]
        ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
        here = np.cumsum(self.deals[:, order], axis=1)[:, ends].astype(np.float64)
        there = (ends + 1)[None, :] - here
        apart = here / np.maximum(here[:, -1:], 1) - there / np.maximum(there[:, -1:], 1)
        return np.abs(apart).max(axis=1)

    def share(self, true: Rows, rows: Rows) -> Floats:
        """The difference of the two shares of true rows."""
        deals = self.deals[:, rows]
        counts = _counts(deals, true[rows, None])
        sizes = _counts(deals, np.ones((int(rows.sum()), 1), np.bool_))
        return np.abs(np.diff(counts[..., 0] / np.maximum(sizes[..., 0], 1), axis=0)[0])

    def mix(self, labels: NDArray[np.int64], rows: Rows) -> Floats:
        """Cramer's V of the labels: chi-squared as a number in 0..1."""
        present = np.unique(labels[rows])
        counts = _counts(self.deals[:, rows], labels[rows, None] == present)
        sizes, whole = counts.sum(axis=2, keepdims=True), counts.sum(axis=0, keepdims=True)
        total = sizes.sum(axis=0, keepdims=True)
        expected = np.maximum(sizes * whole / total, 1e-9)
        return np.sqrt(((counts - expected) ** 2 / expected).sum(axis=(0, 2)) / total.ravel())

    def energy(self, values: Floats, rows: Rows) -> Floats:
        """Energy distance, each axis scaled to unit variance, as a share of the mean distance between the two sides."""
        used = values[rows]
        points = (used - used.mean(axis=0)) / np.maximum(used.std(axis=0), 1e-9)
        square = (points**2).sum(axis=1)
        apart = np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0)).astype(np.float32)
        deals = self.deals[:, rows]
        reach = deals @ apart
        within = (reach * deals).sum(axis=1, dtype=np.float64)
        across = reach.sum(axis=1, dtype=np.float64) - within
        rest = float(apart.sum(dtype=np.float64)) - within - 2 * across
        here = np.maximum(deals.sum(axis=1, dtype=np.float64), 1)
        there = np.maximum(len(points) - here, 1)
        between = 2 * across / (here * there)
        return np.clip((between - within / here**2 - rest / there**2) / np.maximum(between, 1e-9), 0, 1)


def _counts(deals: Permutations, kinds: Rows) -> Floats:
    """The number of rows of each kind (n, k) in the window and in the reference: (2, 1000, k)."""
    members = kinds.astype(np.float32)
    here = (deals @ members).astype(np.float64)
    return np.stack([here, members.sum(axis=0) - here])


def _outcome(distances: Floats) -> Tested:
    return Tested(p=float(np.mean(np.asarray(distances >= distances[0] - 1e-7))), distance=float(distances[0]))


def _whole(values: Floats) -> Rows:
    """Rows without a nan."""
    return np.asarray(~np.isnan(values).any(axis=1), np.bool_)


def _holm(tests: dict[str, Tested], alarm_rate: float) -> dict[str, Tested]:
    """Holm's step-down over the tests: the i-th smallest p must not exceed the rate divided by the number left."""
    alarmed: set[str] = set()
    for done, name in enumerate(sorted(tests, key=lambda name: tests[name].p)):
        if tests[name].p > alarm_rate / (len(TESTS) - done):
            break
        alarmed.add(name)
    return {name: test.model_copy(update={"alarm": name in alarmed}) for name, test in tests.items()}
