"""From the bytes of an image file to a diagnosis: decode, prepare, predict, explain.

Serving, evaluation, reports, monitoring's reference and the check before a promotion all call `Diagnoser.diagnose`.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lungline.errors import ImageRefused
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.heatmap import EvidenceMap, draw
from lungline.imaging.image import DecodedImage, Limits
from lungline.imaging.lungs import heat_within
from lungline.imaging.margins import Box
from lungline.imaging.outline import Outline, outlines_of
from lungline.imaging.preparation import evidence_map
from lungline.imaging.statistics import ImageStatistics, compute_statistics
from lungline.package.package import Package, Prediction
from lungline.results import records
from lungline.results.records import FindingFacts, ImageFacts, LungFacts, ModelFacts, ResultLabel

PHANTOM_WARNING = "the model was trained on drawn phantoms, not on X-rays"
ELSEWHERE = "lies inside the lungs: the risk may rest on something else in the image"
# Share of the heat inside the lungs below which a result says so: then most of it lies outside. Spread by chance it
# would be the lungs' share of the image, a third to a half.
HEAT_FLOOR = 0.5


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The model's answer for an image, or the reason for refusing it.

    `reason` is a code for counters, `message` a sentence for a person. `evidence` is the map of the heatmap, `heatmap`
    its drawing as PNG bytes where one was wanted. `timings` are milliseconds by stage. A refused image has no
    `prediction`; one that cannot be decoded has no `image` either. `outlines` are those of the lungs over the whole
    image, given with a map; `heat_inside` is the share of the heat inside the lungs, None for models without a lung
    segmenter.
    """

    label: ResultLabel
    reason: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()
    evidence: EvidenceMap | None = None
    heatmap: bytes | None = field(default=None, repr=False)
    image: DecodedImage | None = field(default=None, repr=False)
    prediction: Prediction | None = field(default=None, repr=False)
    timings: dict[str, float] = field(default_factory=dict)
    statistics: ImageStatistics | None = None
    heat_inside: float | None = None
    outlines: tuple[Outline, ...] = field(default=(), repr=False)

    @property
    def probability(self) -> float | None:
        """Calibrated risk, 0 to 1; None for a refused image."""
        return self.prediction and self.prediction.probability

    @property
    def finding_facts(self) -> tuple[FindingFacts, ...]:
        """The answers about each of several findings, for a record."""
        answers = self.prediction.findings if self.prediction else ()
        return tuple(FindingFacts(**asdict(answer)) for answer in answers)

    @property
    def image_facts(self) -> ImageFacts | None:
        """Format and size of the file's image, for a record; None for a refused image."""
        if self.image is None or self.prediction is None:
            return None
        return ImageFacts(format=self.image.format, width=self.image.width, height=self.image.height)

    @property
    def lung_facts(self) -> LungFacts | None:
        """Outline of the lungs and the share of the heat inside, for a record; None for models without lungs."""
        if self.heat_inside is None:
            return None
        return LungFacts(outlines=self.outlines, heat_inside=round(self.heat_inside, 3))


class Diagnoser:
    """Applies a model package to image files; immutable, and safe to call from any number of threads.

    Example:
        diagnoser = Diagnoser(Package.load(folder))
        diagnosis = diagnoser.diagnose(file.read_bytes())
        diagnosis.label, diagnosis.probability    # "Normal", 0.04
    """

    def __init__(self, package: Package, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self.package = package
        self.limits = limits
        self.version = records.version_of(package.card, package.sha256)
        self.record_version = _record_version(package)

    def diagnose(
        self,
        data: bytes,
        *,
        header: DicomFile | None = None,
        heatmap: bool = True,
        drawn: bool = True,
        statistics: bool = True,
        located: bool = True,
    ) -> Diagnosis:
        """Diagnose the bytes of an image file; an image that must be refused gives the label Refused, not an error.

        `statistics` are the image statistics that monitoring compares; they cost a tenth of the time, so only results
        that are stored need them. A `heatmap` that is not `drawn` is given as its map alone, which costs a tenth.
        `header` is that of a DICOM file, if it has been read. What is not `located` has `heat_inside` only where a
        warning may follow from it. Raises Busy when other large
        images have the memory that this one needs.
        """
        with self.limits.work():
            return self._diagnose(data, header, heatmap=heatmap, drawn=drawn, statistics=statistics, located=located)

    def _diagnose(
        self, data: bytes, header: DicomFile | None, *, heatmap: bool, drawn: bool, statistics: bool, located: bool
    ) -> Diagnosis:
        timings: dict[str, float] = {}
        try:
            with timed(timings, "decode"):
                image = self.package.card.preparation.decode(data, self.limits, header)
        except ImageRefused as refusal:
            return refused(refusal.reason, str(refusal), timings)
        if image.is_blank:
            return refused("blank", "All pixels of the image have the same value.", timings)
        with timed(timings, "prepare"):
            inside = self.package.card.preparation.inside_margins(image)
            prepared = self.package.card.preparation.apply(image, inside)
        diagnosis = self._predict(image, prepared, timings, size=len(data) if statistics else None, located=located)
        return self._explained(diagnosis, image, inside, drawn=drawn) if heatmap else diagnosis

    def _predict(
        self,
        image: DecodedImage,
        prepared: NDArray[np.float32],
        timings: dict[str, float],
        *,
        size: int | None,
        located: bool,
    ) -> Diagnosis:
        with timed(timings, "predict"):
            (prediction,) = self.package.predict(prepared[np.newaxis])
        if image.not_frontal:
            prediction = replace(
                prediction,
                label="Unsure",
                warnings=(image.not_frontal, *prediction.warnings),
                doubts=("not-frontal", *prediction.doubts),
            )
        statistics = None
        if size is not None:
            with timed(timings, "observe"):
                statistics = compute_statistics(image, size, prediction.embedding)
        heat = None
        if prediction.lungs is not None and (located or self._is_raised(prediction)):
            heat = heat_within(prediction.cam, prediction.lungs)[0]
        return Diagnosis(
            label=prediction.label,
            warnings=self._warnings(image, prediction, heat),
            heat_inside=heat,
            image=image,
            prediction=prediction,
            timings=timings,
            statistics=statistics,
        )

    def _explained(self, diagnosis: Diagnosis, image: DecodedImage, inside: Box, *, drawn: bool) -> Diagnosis:
        preparation, prediction, outlines = self.package.card.preparation, diagnosis.prediction, ()
        if prediction is None:
            return diagnosis
        with timed(diagnosis.timings, "explain"):
            evidence = evidence_map(image, prediction.cam, preparation, inside)
            png = draw(image, evidence) if drawn else None
            if prediction.lungs is not None:
                outlines = outlines_of(prediction.lungs, image, preparation, inside)
        return replace(diagnosis, evidence=evidence, heatmap=png, outlines=outlines)

    def _is_raised(self, prediction: Prediction) -> bool:
        return prediction.probability >= self.package.card.thresholds.operating

    def _warnings(self, image: DecodedImage, prediction: Prediction, inside: float | None) -> tuple[str, ...]:
        synthetic = (PHANTOM_WARNING,) if self.package.card.synthetic else ()
        elsewhere = ()
        # A map of a low risk locates nothing.
        if inside is not None and inside < HEAT_FLOOR and self._is_raised(prediction):
            elsewhere = (f"only {inside:.0%} of the heatmap {ELSEWHERE}",)
        return (*prediction.warnings, *elsewhere, *image.warnings, *synthetic)


def refused(reason: str, message: str, timings: dict[str, float] | None = None) -> Diagnosis:
    """The diagnosis of an image that cannot be used."""
    return Diagnosis("Refused", reason=reason, message=message, timings=timings or {})


def _record_version(package: Package) -> str:
    card = package.card
    return records.record_version(card.name, card.task.name, records.version_of(card, package.sha256))


def model_facts(package: Package) -> ModelFacts:
    """The model's identity, for records and responses."""
    card = package.card
    return ModelFacts(
        name=card.name,
        version=_record_version(package),
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
