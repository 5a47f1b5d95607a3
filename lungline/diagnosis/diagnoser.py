"""The one online path, from an uploaded image to a saved result: fetch, decode, predict, explain, save.

The predictor, the laptop and a notebook call the same two things: `Diagnoser.diagnose` for the bytes of an image,
`diagnose_upload` for an object in the store.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from lungline.errors import ImageRefused
from lungline.imaging.image import DecodedImage, Limits
from lungline.imaging.preparation import heatmap_png
from lungline.imaging.statistics import ImageStatistics, compute_statistics
from lungline.package.package import Package, Prediction
from lungline.results import records
from lungline.results.records import ImageFacts, ModelFacts, ResultLabel

PHANTOM_WARNING = "the model was trained on drawn phantoms, not on X-rays"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the model found in an image, or why it was refused.

    `reason` is a code for counters, `message` its sentence for a person. `timings` are milliseconds by stage.
    """

    label: ResultLabel
    probability: float | None = None
    reason: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()
    heatmap: bytes | None = field(default=None, repr=False)
    picture: ImageFacts | None = None
    timings: dict[str, float] = field(default_factory=dict)
    observed: ImageStatistics | None = None


class Diagnoser:
    """A model package, ready to judge images; immutable, and safe to call from any number of threads."""

    def __init__(self, package: Package, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.package = package
        self.limits = limits
        self.version = records.version_of(package.card, package.sha256)

    def diagnose(self, data: bytes, *, heatmap: bool = True, observed: bool = True) -> Diagnosis:
        """Judge the bytes of an image file; an image that cannot be judged gives the label Refused, not an error.

        `observed` is for results that are saved: what monitoring needs to know costs a tenth of judging.
        """
        timings: dict[str, float] = {}
        try:
            with timed(timings, "decode"):
                picture = self.package.card.preparation.decode(data, self.limits)
        except ImageRefused as refusal:
            return refused(refusal.reason, str(refusal), timings)
        if picture.is_blank:
            return refused("blank", "All pixels of the image are the same: there is nothing to judge.", timings)
        return self._judge(picture, len(data) if observed else None, timings, heatmap=heatmap)

    def _judge(self, picture: DecodedImage, size: int | None, timings: dict[str, float], *, heatmap: bool) -> Diagnosis:
        card = self.package.card
        with timed(timings, "prepare"):
            prepared = card.preparation.apply(picture)
        with timed(timings, "predict"):
            prediction = self.package.predict(prepared[np.newaxis])[0]
        observed = None
        if size is not None:
            with timed(timings, "observe"):
                observed = compute_statistics(picture, size, prediction.embedding)
        png = None
        if heatmap:
            with timed(timings, "explain"):
                png = heatmap_png(picture, prediction.cam, card.preparation)
        return Diagnosis(
            label=prediction.label,
            probability=prediction.probability,
            warnings=self._warnings(picture, prediction),
            heatmap=png,
            picture=ImageFacts(format=picture.format, width=picture.width, height=picture.height),
            timings=timings,
            observed=observed,
        )

    def _warnings(self, picture: DecodedImage, prediction: Prediction) -> tuple[str, ...]:
        synthetic = (PHANTOM_WARNING,) if self.package.card.synthetic else ()
        return (*picture.warnings, *prediction.warnings, *synthetic)


def refused(reason: str, message: str, timings: dict[str, float] | None = None) -> Diagnosis:
    """The diagnosis of an image that cannot be judged."""
    return Diagnosis("Refused", reason=reason, message=message, timings=timings or {})


def model_facts(package: Package) -> ModelFacts:
    """What records and answers say about the model."""
    card = package.card
    return ModelFacts(
        name=card.name,
        version=records.version_of(card, package.sha256),
        run_id=card.mlflow_run_id,
        sha256=package.sha256,
        synthetic=card.synthetic,
    )


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Generator[None]:
    """Add the milliseconds that the context takes to `timings` under `stage`, also when it raises."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = (time.perf_counter() - start) * 1000
