"""The reference: how the validation pictures look to a model, kept in its package as reference.json.

Measured on the path that serving takes (the same decoder, the same LiteRT model), so that nothing but the pictures can
differ between it and the field. The card lists the file with its sha256, like every other file of the package.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from lungline.diagnosis.diagnoser import Diagnoser, Diagnosis
from lungline.errors import LunglineError, ObjectGone, PackageError
from lungline.imaging.image import Limits
from lungline.imaging.statistics import ImageStatistics
from lungline.monitoring.comparison import ComparedResult, Sample, sample
from lungline.package.card import CARD, Card, amend_card, read_card
from lungline.package.package import Package
from lungline.storage.s3 import Storage

FILE = "reference.json"
# More would tell a test little and make the package heavy.
MOST = 800


class Reference(BaseModel):
    """reference.json: validation pictures as the model saw them, in no order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(default=1, validation_alias=AliasChoices("schema_version", "form"))
    split: str = Field(description="The split that the pictures are of.")
    pictures: int = Field(description="Pictures of that split, of which at most 800 are kept.")
    labels: tuple[str, ...]
    scores: tuple[float | None, ...] = Field(description="Calibrated probabilities; None of a refused picture.")
    observed: tuple[ImageStatistics | None, ...]
    patients: tuple[int, ...] = Field(description="Numbers that pictures of one patient share; they tell nothing else.")

    def sample(self) -> Sample:
        """The reference as tests compare it."""
        rows = zip(self.labels, self.scores, self.observed, self.patients, strict=True)
        return sample(ComparedResult(*row) for row in rows)


def measure(
    package: Package, pictures: Iterable[tuple[str | None, bytes]], split: str, limits: Limits | None = None
) -> Reference:
    """Judge pictures, as patient and file, as serving would. Raises PackageError for none at all."""
    diagnoser = Diagnoser(package, limits or Limits())
    numbers: dict[str, int] = {}
    found: list[Diagnosis] = []
    patients: list[int] = []
    for row, (patient, data) in enumerate(pictures):
        found.append(diagnoser.diagnose(data, heatmap=False))
        patients.append(numbers.setdefault(patient or f"row {row}", len(numbers)))
    if not found:
        raise PackageError(f"There are no pictures in {split}, so the package gets no reference for monitoring.")
    kept = [int(index) for index in np.sort(np.random.default_rng(0).permutation(len(found))[:MOST])]
    chosen = [found[index] for index in kept]
    return Reference(
        split=split,
        pictures=len(found),
        labels=tuple(one.label for one in chosen),
        scores=tuple(None if one.probability is None else round(one.probability, 5) for one in chosen),
        observed=tuple(one.observed for one in chosen),
        patients=tuple(patients[index] for index in kept),
    )


def add_reference(folder: Path, reference: Reference) -> Card:
    """Put a reference into a package that is not registered yet; returns the card, which lists it."""
    data = reference.model_dump_json().encode()
    (folder / FILE).write_bytes(data)
    files = read_card(folder)[0].files | {FILE: hashlib.sha256(data).hexdigest()}
    return amend_card(folder, files=files)


def read_reference(card: Card, data: bytes) -> Reference:
    """The reference in the bytes of a file that a card lists. Raises PackageError when it is another file."""
    if card.files.get(FILE) != hashlib.sha256(data).hexdigest():
        raise PackageError(f"The file {FILE} of version {card.version} is damaged: its sha256 is not the card's.")
    try:
        return Reference.model_validate_json(data)
    except ValidationError as exc:
        raise PackageError(f"The file {FILE} of version {card.version} is not of a form that is known.") from exc


def fetch_reference(storage: Storage, bucket: str, prefix: str) -> tuple[Card | None, Reference | None]:
    """Card and reference of the package under a prefix; None for what is not there, as in older packages."""
    try:
        card = Card.model_validate_json(storage.get(bucket, f"{prefix}/{CARD}").data)
    except ObjectGone:
        return None, None
    except ValidationError as exc:
        raise LunglineError(f"The card of the package at {prefix} in bucket {bucket} is damaged.") from exc
    if FILE not in card.files:
        return card, None
    return card, read_reference(card, storage.get(bucket, f"{prefix}/{FILE}").data)
