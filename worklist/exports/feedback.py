"""Readings as a data set, in the folder layout that training reads.

    train/PNEUMONIA/person1234_0f3a....jpeg    a pseudonym of the patient, and the upload's identity
    labels.csv                                 the origin of each label; no reader, no object key

All images of a patient are in one split, which is drawn by a hash of the patient. Patient names of the public data set
are kept, so that a merge with it keeps a patient in one split too.
"""

import csv
import hashlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lungline.datasets.dataset import patient_in, patient_of, patient_pattern
from lungline.errors import LunglineError, ObjectGone
from lungline.results.records import ResultRecord
from worklist.database import audit
from worklist.database.models import Checkpoint, ReadingRow, ResultRow, WorklistEntry
from worklist.database.session import Database
from worklist.exports.images import ImageRenderer

FOLDERS = {"Normal": "NORMAL", "Pneumonia": "PNEUMONIA"}
COLUMNS = ("file", "identity", "verdict", "action", "model_version", "model_label", "probability", "at")
CHECKPOINT = "last training"
BATCH = 200
# Percentiles of patients: below the first, test; below the second, validation; the rest, train.
_TEST, _VALIDATION = 10, 20
# Settled cases; a reopened one is not.
_LABELLED = (WorklistEntry.read == 1, WorklistEntry.verdict.in_(FOLDERS), WorklistEntry.outcome == "judged")
_ENDINGS = {"jpeg": ".jpeg", "png": ".png", "dicom": ".dcm"}


@dataclass(frozen=True, slots=True)
class Exported:
    """The numbers of exported images by split and class, and of images that no longer exist."""

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    gone: int = 0

    @property
    def images(self) -> int:
        """The number of exported images."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class RetrainCheck:
    """Whether there are enough new labels for a training run.

    `labels` counts new ones, `usable` all that an export would hold; `last` is the number of the last reading.
    """

    labels: int
    needed: int
    last: int
    usable: int = 0

    @property
    def is_due(self) -> bool:
        """Whether there are as many new labels as the setting requires."""
        return self.labels >= self.needed


def export_feedback(  # noqa: PLR0917 - a source, a target and who exports
    database: Database,
    images: ImageRenderer,
    folder: Path,
    who: str,
    pattern: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write all confirmed and corrected X-rays to a new or empty `folder`, which appears once it is complete.

    Raises LunglineError when there is nothing to export, StorageUnavailable when images cannot be fetched.
    """
    expression = patient_pattern(pattern)
    if folder.exists() and any(folder.iterdir()):
        raise LunglineError(f"The folder {folder} already holds files; choose a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        counts, gone = _write(database, images, draft, expression, on_progress)
        with database.writing() as session:
            audit.record(session, who, "admin", "exported", detail=f"feedback, {sum(counts.values())} images")
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Exported(folder, dict(sorted(counts.items())), gone)


def retrain_check(database: Database, needed: int) -> RetrainCheck:
    """Count the uploads that were labelled since the last training run."""
    with database.reading() as session:
        checkpoint = session.get(Checkpoint, CHECKPOINT)
        trained = checkpoint.value if checkpoint else 0
        new = select(ReadingRow.identity).where(ReadingRow.verdict.in_(FOLDERS), ReadingRow.number > trained).distinct()
        last = session.scalar(select(ReadingRow.number).order_by(ReadingRow.number.desc()).limit(1)) or 0
        usable = session.scalar(select(func.count()).select_from(WorklistEntry).where(*_LABELLED)) or 0
        return RetrainCheck(len(session.scalars(new).all()), needed, last, usable)


def mark_trained(database: Database, last: int) -> None:
    """Record that a training run used all readings up to `last`, the `RetrainCheck.last` from before its export."""
    with database.writing() as session:
        session.merge(Checkpoint(name=CHECKPOINT, value=last))


def patient(key: str, pattern: re.Pattern[str] | None = None) -> str:
    """The patient of an object key: from the pattern, from the public data set's names, else its folder.

    A folder may hold many patients, who then share one split.
    """
    return patient_in(key, pattern) or key.rpartition("/")[0] or key


def split(owner: str) -> str:
    """The split of a patient, the same in every export."""
    draw = int(hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 100
    return "test" if draw < _TEST else "val" if draw < _VALIDATION else "train"


def _write(
    database: Database,
    images: ImageRenderer,
    draft: Path,
    pattern: re.Pattern[str] | None,
    on_progress: Callable[[int], None] | None,
) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    gone = last = 0
    with (draft / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        while batch := _labelled(database, last):
            for entry, record in batch:
                last = entry.number
                try:
                    data = images.original(record)
                except ObjectGone:
                    gone += 1
                    continue
                place, name = _place(entry, record, pattern)
                (draft / place).mkdir(parents=True, exist_ok=True)
                (draft / place / name).write_bytes(data)
                table.writerow(_line(entry, f"{place}/{name}"))
                counts[place] += 1
            if on_progress:
                on_progress(sum(counts.values()))
    if not counts:
        raise LunglineError("No X-ray has been confirmed or corrected yet; there is nothing to export.")
    return counts, gone


def _labelled(database: Database, last: int) -> list[tuple[WorklistEntry, ResultRecord]]:
    with database.reading() as session:
        return [(entry, ResultRecord.model_validate_json(body)) for entry, body in _rows(session, last)]


def _rows(session: Session, last: int) -> list[tuple[WorklistEntry, str]]:
    statement = select(WorklistEntry, ResultRow.body).join(ResultRow, ResultRow.id == WorklistEntry.record)
    labelled = statement.where(WorklistEntry.number > last, *_LABELLED).order_by(WorklistEntry.number).limit(BATCH)
    return [(row[0], row[1]) for row in session.execute(labelled)]


def _place(entry: WorklistEntry, record: ResultRecord, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    owner = patient(entry.key, pattern)
    # Patients of the public data set keep their names; all others get a pseudonym.
    alias = owner if patient_of(f"{owner}_") == owner else f"person{int(_digest(owner)[:12], 16)}"
    ending = _ENDINGS.get(record.image.format.lower() if record.image else "", "")
    return f"{split(owner)}/{FOLDERS[entry.verdict or '']}", f"{alias}_{entry.identity}{ending}"


def _line(entry: WorklistEntry, name: str) -> tuple[object, ...]:
    at = entry.read_at.isoformat() if entry.read_at else None
    return (name, entry.identity, entry.verdict, entry.action, entry.version, entry.label, entry.probability, at)


def _digest(owner: str) -> str:
    return hashlib.sha256(f"lungline feedback {owner}".encode("utf-8", "surrogateescape")).hexdigest()
