"""What the model says of each image of a site."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungline.diagnosis.diagnoser import Diagnoser, refused
from lungline.evaluation.metrics import Scored
from lungline.imaging.image import Limits
from lungline.monitoring.comparison import ComparedResult, ordered
from lungline.package.answers import UNSURE, label_of
from lungline.package.card import Card, Thresholds, shifted
from lungline.package.package import Package
from lungline.settings import Settings
from lungline.site_validation.images import SiteImages
from lungline.task.task import Task


@dataclass(frozen=True, slots=True)
class SiteResult:
    """The model's answer for an image of the site; `truth` is None without a label. `doubted` is Unsure in any case."""

    compared: ComparedResult
    truth: int | None
    doubted: bool
    reason: str | None = None

    @property
    def scored(self) -> Scored:
        """The answer for the metrics of an evaluation."""
        return Scored(
            -1 if self.truth is None else self.truth,
            probability=self.compared.probability,
            predicted=self.compared.label,
            reason=self.reason,
        )

    def at(self, shift: float, thresholds: Thresholds, task: Task) -> "SiteResult":
        """The answer with the risk moved in log odds, and with other thresholds."""
        risk = self.compared.probability
        if risk is None:
            return self
        risk = shifted(risk, shift)
        label = UNSURE if self.doubted else label_of(risk, thresholds, task)
        row = ComparedResult(label, risk, self.compared.statistics, self.compared.patient)
        return SiteResult(row, self.truth, self.doubted, self.reason)


def diagnose_site(
    package: Package, images: SiteImages, settings: Settings, on_progress: Callable[[int, int], None] | None
) -> tuple[SiteResult, ...]:
    """Diagnose each image as serving does; `on_progress` gets the number done and in all."""
    diagnoser = Diagnoser(package, Limits.from_settings(settings))
    numbers: dict[str, int] = {}
    results: list[SiteResult] = []
    for image, data in images.files():
        diagnosis = (
            refused("unreadable", "The file cannot be read.")
            if data is None
            else diagnoser.diagnose(data, heatmap=False)
        )
        patient = numbers.setdefault(image.patient or f"image {len(results)}", len(numbers))
        row = ComparedResult(diagnosis.label, diagnosis.probability, diagnosis.statistics, patient)
        doubts = diagnosis.prediction.doubts if diagnosis.prediction else ()
        results.append(SiteResult(row, image.label, bool(doubts), next(iter(doubts), diagnosis.reason)))
        if on_progress:
            on_progress(len(results), len(images.images))
    return tuple(results)


def counted(results: Sequence[SiteResult]) -> dict[str, int]:
    """The number of results with each label."""
    counts = Counter(result.compared.label for result in results)
    return {label: counts[label] for label in ordered(counts)}


def risks_of(results: Sequence[SiteResult]) -> NDArray[np.float64]:
    """The risks of results with a prediction."""
    return np.array([result.compared.probability for result in results], np.float64)


def unshifted(risks: NDArray[np.float64], card: Card) -> NDArray[np.float64]:
    """The calibrated risks, without the shift of the card's prior."""
    return np.array([shifted(float(risk), -card.shift) for risk in risks])
