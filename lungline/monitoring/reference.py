"""The reference: predictions and statistics of the validation images, stored in the model package as reference.json.

Measured on the path of serving (same decoder, same LiteRT model), so that it differs from production data only by the
images. The card lists the file with its sha256, like every other file of the package.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, ObjectGone, PackageError
from lungline.imaging.image import Limits
from lungline.imaging.statistics import ImageStatistics
from lungline.monitoring.comparison import ComparedResult, Sample, sample
from lungline.package.card import CARD, Card, amend_card, read_card
from lungline.package.package import Package
from lungline.storage.s3 import Storage

FILE = "reference.json"
# More would add little power to the tests and make the package large.
MOST = 800


class Reference(BaseModel):
    """reference.json: the validation images as the model predicted them, in no order."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, validation_alias=AliasChoices("schema_version", "form"))
    split: str = Field(description="The split of the images.")
    images: int = Field(
        validation_alias=AliasChoices("images", "pictures"),
        serialization_alias="pictures",
        description="Number of images in that split, of which at most 800 are kept.",
    )
    labels: tuple[str, ...]
    scores: tuple[float | None, ...] = Field(description="Calibrated probabilities; None for a refused image.")
    observed: tuple[ImageStatistics | None, ...]
    patients: tuple[int, ...] = Field(description="Numbers shared by images of one patient; they identify nobody.")

    def sample(self) -> Sample:
        """The reference as arrays for the tests."""
        rows = zip(self.labels, self.scores, self.observed, self.patients, strict=True)
        return sample(ComparedResult(*row) for row in rows)


def measure(
    package: Package, images: Iterable[tuple[str | None, bytes]], split: str, limits: Limits | None = None
) -> Reference:
    """Diagnose images, given as (patient, file bytes), as serving does. Raises PackageError if there are none."""
    diagnoser = Diagnoser(package, limits or Limits())
    numbers: dict[str, int] = {}
    results: list[ComparedResult] = []
    for row, (patient, data) in enumerate(images):
        diagnosis = diagnoser.diagnose(data, heatmap=False)
        number = numbers.setdefault(patient or f"row {row}", len(numbers))
        results.append(ComparedResult(diagnosis.label, diagnosis.probability, diagnosis.statistics, number))
    return reference_of(results, split)


def reference_of(results: Sequence[ComparedResult], split: str) -> Reference:
    """The reference of results whose patients are numbers. Raises PackageError if there are none."""
    if not results:
        raise PackageError(f"There are no images in {split}, so the package gets no reference for monitoring.")
    chosen: list[int] = np.sort(np.random.default_rng(0).permutation(len(results))[:MOST]).tolist()
    kept = [results[index] for index in chosen]
    return Reference(
        split=split,
        images=len(results),
        labels=tuple(result.label for result in kept),
        scores=tuple(_rounded(result.probability) for result in kept),
        observed=tuple(result.statistics for result in kept),
        patients=tuple(int(result.patient or 0) for result in kept),
    )


def _rounded(risk: float | None) -> float | None:
    # Significant digits: where positives are rare, most risks are below a thousandth, and decimals would make ties that
    # production data do not have.
    return None if risk is None else float(f"{risk:.9g}")


def add_reference(folder: Path, reference: Reference) -> Card:
    """Add a reference, or another one, to a package that is not registered yet; returns the card, which lists it."""
    data = reference.model_dump_json().encode()
    (folder / FILE).write_bytes(data)
    files = read_card(folder)[0].files | {FILE: hashlib.sha256(data).hexdigest()}
    return amend_card(folder, files=files)


def read_reference(card: Card, data: bytes) -> Reference:
    """Parse reference.json. Raises PackageError when it is not the file that the card lists."""
    if card.files.get(FILE) != hashlib.sha256(data).hexdigest():
        raise PackageError(f"The file {FILE} of version {card.version} is damaged: its sha256 is not the card's.")
    try:
        return Reference.model_validate_json(data)
    except ValidationError as exc:
        raise PackageError(f"The file {FILE} of version {card.version} has an unknown format.") from exc


def reference_in(folder: Path, card: Card) -> Reference | None:
    """The reference in a package's folder; None for a package without one, as of earlier releases."""
    return read_reference(card, (folder / FILE).read_bytes()) if FILE in card.files else None


def fetch_reference(storage: Storage, bucket: str, prefix: str) -> tuple[Card | None, Reference | None]:
    """Card and reference of the package under a prefix; None for a missing one, as in older packages."""
    try:
        card = Card.model_validate_json(storage.get(bucket, f"{prefix}/{CARD}").data)
    except ObjectGone:
        return None, None
    except ValidationError as exc:
        raise LunglineError(f"The card of the package at {prefix} in bucket {bucket} is damaged.") from exc
    if FILE not in card.files:
        return card, None
    return card, read_reference(card, storage.get(bucket, f"{prefix}/{FILE}").data)
