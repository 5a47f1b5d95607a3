"""A window of the field beside the reference: six tests, and one alarm whose false ones are held to a given share.

    images      Kolmogorov-Smirnov distance of each statistic of the pictures; the largest counts
    embedding   energy distance of the network's summaries, all axes at once
    score       Kolmogorov-Smirnov distance of the probabilities
    labels      chi-squared distance of Normal, Unsure and Pneumonia
    unsure      difference of the share of Unsure ones
    refusals    difference of the share of refused pictures

Each is held against the same statistic of patients dealt anew, by chance, to reference and window: a permutation test,
exact for every sample size, for ties, and for several pictures of one patient. The tests of the libraries know pictures
only; where patients come back they cry wolf several times as often as they say. Holm's method over the six then holds
the share of unchanged windows that have any alarm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lungline.imaging.statistics import STATISTICS, ImageStatistics

LABELS = ("Normal", "Unsure", "Pneumonia", "Refused")


@dataclass(frozen=True, slots=True)
class ComparedResult:
    """One result; a refused picture has neither probability nor observation. `patient` is any name of theirs."""

    label: str
    probability: float | None = None
    observed: ImageStatistics | None = None
    patient: str | int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Results side by side, a row each; what a result does not have is nan.

    `statistics` (n, 11) in the order of STATISTICS, `embedding` (n, 16, or 0 without), `scores` (n,), `labels` (n,)
    places in LABELS, `patients` (n,) numbers that rows of one patient share.
    """

    statistics: NDArray[np.float64]
    embedding: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]

    @property
    def counts(self) -> dict[str, int]:
        """How many results have each label."""
        return {label: int(np.sum(self.labels == at)) for at, label in enumerate(LABELS)}

    def __len__(self) -> int:
        return len(self.labels)


def sample(results: Iterable[ComparedResult]) -> Sample:
    """The sample of some results; one without a known patient is a patient of its own."""
    found = list(results)
    wide = max((len(one.observed.embedding) for one in found if one.observed), default=0)
    statistics = np.full((len(found), len(STATISTICS)), np.nan)
    embedding = np.full((len(found), wide), np.nan)
    for row, one in enumerate(found):
        if one.observed:
            statistics[row] = [one.observed.statistics.get(name, np.nan) for name in STATISTICS]
            if len(one.observed.embedding) == wide:
                embedding[row] = one.observed.embedding
    known: dict[str | int, int] = {}
    return Sample(
        statistics=statistics,
        embedding=embedding,
        scores=np.array([np.nan if one.probability is None else one.probability for one in found], np.float64),
        labels=np.array([LABELS.index(one.label) for one in found], np.int64),
        patients=np.array(
            [
                known.setdefault(f"row {row}" if one.patient is None else one.patient, len(known))
                for row, one in enumerate(found)
            ],
            np.int64,
        ),
    )


TESTS = ("images", "embedding", "score", "labels", "unsure", "refusals")
# The smallest p is 1 in 1000, which Holm's method over six tests needs for an alarm rate of 0.6 % or more.
DEALS = 999
# Fewer results than this on either side tell nothing that a test could hear.
LEAST = 20

Floats = NDArray[np.float64]
Deals = NDArray[np.float32]
Rows = NDArray[np.bool_]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tested(_Part):
    """What a test found: `distance` in 0..1 says how far, `p` how often an unchanged world looks so or worse."""

    p: float
    distance: float
    alarm: bool = False


class StatisticTested(Tested):
    """One statistic of the pictures by itself, with its median then and now; `alarm` of its own is never raised."""

    reference: float
    field: float


class WindowComparison(_Part):
    """What became of a window. A test that has too little to go on is not among `tests`."""

    tests: dict[str, Tested]
    statistics: dict[str, StatisticTested] = Field(description="Each statistic of the pictures by itself.")

    @property
    def alarms(self) -> tuple[str, ...]:
        """The tests that say that the world has changed."""
        return tuple(name for name, test in self.tests.items() if test.alarm)


def compare(reference: Sample, window: Sample, alarm_rate: float, seed: int = 0) -> WindowComparison:
    """Compare a window with the reference; of unchanged windows at most a share `alarm_rate` has an alarm."""
    both = _Both.of(reference, window, seed)
    statistics, apart = both.statistics()
    found = both.results() | both.embedding() | ({"images": apart.max(axis=0)} if len(apart) else {})
    tests = {name: _tested(found[name]) for name in TESTS if name in found}
    return WindowComparison(tests=_holm(tests, alarm_rate), statistics=statistics)


@dataclass(frozen=True)
class _Both:
    """Reference and window as one, and who is dealt to the window: first as it is, then by chance.

    A distance is an array (1000,), one for each deal, the true one first. What has too few rows is left out.
    """

    reference: Sample
    window: Sample
    deals: Deals

    @classmethod
    def of(cls, reference: Sample, window: Sample, seed: int) -> "_Both":
        """Deal patients, not pictures."""
        first = int(reference.patients.max(initial=-1)) + 1
        patients = np.concatenate([reference.patients, window.patients + first])
        here, everybody = len(np.unique(window.patients)), int(patients.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        chosen = np.zeros((DEALS + 1, everybody), np.float32)
        chosen[0, first:] = 1
        for row in chosen[1:]:
            row[rng.choice(everybody, here, replace=False)] = 1
        return cls(reference, window, chosen[:, patients])

    def statistics(self) -> tuple[dict[str, StatisticTested], Floats]:
        """What became of each statistic of the pictures, and their distances (11, 1000)."""
        then, now = self.reference.statistics, self.window.statistics
        values = np.concatenate([then, now])
        rows = _whole(values)
        if not self._enough(rows):
            return {}, np.zeros((0, len(self.deals)))
        apart = np.stack([self.smirnov(values[:, at], rows) for at in range(len(STATISTICS))])
        medians = np.nanmedian(then, axis=0), np.nanmedian(now, axis=0)
        found = {
            name: StatisticTested(
                **_tested(apart[at]).model_dump(), reference=float(medians[0][at]), field=float(medians[1][at])
            )
            for at, name in enumerate(STATISTICS)
        }
        return found, apart

    def embedding(self) -> dict[str, Floats]:
        """The distance of the embeddings, where both have them in the same form."""
        then, now = self.reference.embedding, self.window.embedding
        if not then.shape[1] == now.shape[1] > 0:
            return {}
        values = np.concatenate([then, now])
        rows = _whole(values)
        return {"embedding": self.energy(values, rows)} if self._enough(rows) else {}

    def results(self) -> dict[str, Floats]:
        """The distances of scores, labels and shares."""
        labels: NDArray[np.int64] = np.concatenate([self.reference.labels, self.window.labels])
        scores: Floats = np.concatenate([self.reference.scores, self.window.scores])
        judged = _whole(scores[:, None])
        found: dict[str, Floats] = {}
        if self._enough(judged):
            found["score"] = self.smirnov(scores, judged)
            found["labels"] = self.mix(labels, judged)
            found["unsure"] = self.share(np.asarray(labels == LABELS.index("Unsure")), judged)
        if self._enough(everyone := np.ones(len(labels), np.bool_)):
            found["refusals"] = self.share(np.asarray(labels == LABELS.index("Refused")), everyone)
        return found

    def _enough(self, rows: Rows) -> bool:
        here = int(rows[len(self.reference) :].sum())
        return min(here, int(rows.sum()) - here) >= LEAST

    def smirnov(self, values: Floats, rows: Rows) -> Floats:
        """The largest difference of the two shares that lie at or below a value."""
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
        """Energy distance, each axis scaled by its spread: the share of the mean distance across that is not within."""
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


def _counts(deals: Deals, kinds: Rows) -> Floats:
    """How many rows of each kind (n, k) are in the window and in the reference: (2, 1000, k)."""
    one = kinds.astype(np.float32)
    here = (deals @ one).astype(np.float64)
    return np.stack([here, one.sum(axis=0) - here])


def _tested(distances: Floats) -> Tested:
    return Tested(p=float(np.mean(np.asarray(distances >= distances[0] - 1e-7))), distance=float(distances[0]))


def _whole(values: Floats) -> Rows:
    """Rows without a nan."""
    return np.asarray(~np.isnan(values).any(axis=1), np.bool_)


def _holm(tests: dict[str, Tested], alarm_rate: float) -> dict[str, Tested]:
    """Holm's step-down over the tests: the i-th smallest p must not exceed the rate over those that are left."""
    alarmed: set[str] = set()
    for done, name in enumerate(sorted(tests, key=lambda name: tests[name].p)):
        if tests[name].p > alarm_rate / (len(TESTS) - done):
            break
        alarmed.add(name)
    return {name: test.model_copy(update={"alarm": name in alarmed}) for name, test in tests.items()}
