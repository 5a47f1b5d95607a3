"""Many results as monitoring compares them: the reference of a model, or a window of the field."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungline.monitoring.observation import STATISTICS, Observation

LABELS = ("Normal", "Unsure", "Pneumonia", "Refused")


@dataclass(frozen=True, slots=True)
class Judged:
    """One result; a refused picture has neither probability nor observation. `patient` is any name of theirs."""

    label: str
    probability: float | None = None
    observed: Observation | None = None
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


def sample(results: Iterable[Judged]) -> Sample:
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
