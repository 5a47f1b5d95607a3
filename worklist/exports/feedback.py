"""What readers said as a data set, in the folder layout that training reads.

    train/PNEUMONIA/person1234_0f3a....jpeg    the patient under another name, and the upload's identity
    labels.csv                                 where each label comes from; no reader, no object key

All images of a patient are in one split: it is drawn by a hash of the patient. The public data set's own patient
names are kept, so that a merge with it can hold them together.
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
MARK = "last training"
BATCH = 200
# Of a hundred patients, those below the first number go to test, below the second to validation, all others train.
_TEST, _VALIDATION = 10, 20
# What somebody has settled; a case that was opened again is not.
_LABELLED = (WorklistEntry.read == 1, WorklistEntry.verdict.in_(FOLDERS), WorklistEntry.outcome == "judged")
_ENDINGS = {"jpeg": ".jpeg", "png": ".png", "dicom": ".dcm"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: images by split and class, and uploads whose image is not there any more."""

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    gone: int = 0

    @property
    def images(self) -> int:
        """How many images were written."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class RetrainCheck:
    """Whether enough new labels have come for a training run.

    `labels` are new, `usable` all that an export would hold; `last` is the number of the last reading.
    """

    labels: int
    needed: int
    last: int
    usable: int = 0

    @property
    def is_due(self) -> bool:
        """Whether there are as many as the setting asks for."""
        return self.labels >= self.needed


def export_feedback(  # noqa: PLR0917 - who, from where, to where
    database: Database,
    pictures: ImageRenderer,
    folder: Path,
    who: str,
    pattern: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write all confirmed and corrected X-rays; `folder` must not exist or be empty, and appears complete.

    Raises LunglineError when there is nothing to write, StorageUnavailable when the images cannot be fetched.
    """
    expression = patient_pattern(pattern)
    if folder.exists() and any(folder.iterdir()):
        raise LunglineError(f"The folder {folder} already holds files; feedback is exported into a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        counts, gone = _write(database, pictures, draft, expression, on_progress)
        with database.writing() as session:
            audit.record(session, who, "admin", "exported", detail=f"feedback, {sum(counts.values())} images")
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Exported(folder, dict(sorted(counts.items())), gone)


def retrain_check(database: Database, needed: int) -> RetrainCheck:
    """How many uploads have a label that the last training run could not know."""
    with database.reading() as session:
        mark = session.get(Checkpoint, MARK)
        known = mark.value if mark else 0
        new = select(ReadingRow.identity).where(ReadingRow.verdict.in_(FOLDERS), ReadingRow.number > known).distinct()
        last = session.scalar(select(ReadingRow.number).order_by(ReadingRow.number.desc()).limit(1)) or 0
        usable = session.scalar(select(func.count()).select_from(WorklistEntry).where(*_LABELLED)) or 0
        return RetrainCheck(len(session.scalars(new).all()), needed, last, usable)


def mark_trained(database: Database, last: int) -> None:
    """Note that a training run knows all readings up to this one; `RetrainCheck.last` from before its export."""
    with database.writing() as session:
        session.merge(Checkpoint(name=MARK, value=last))


def patient(key: str, pattern: re.Pattern[str] | None = None) -> str:
    """Who an object's key is about: by the pattern, by the public data set's names, else its folder.

    A folder may hold many patients; together they are still on one side of a split.
    """
    return patient_in(key, pattern) or key.rpartition("/")[0] or key


def split(owner: str) -> str:
    """The split of a patient, the same in every export."""
    draw = int(hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 100
    return "test" if draw < _TEST else "val" if draw < _VALIDATION else "train"


def _write(
    database: Database,
    pictures: ImageRenderer,
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
                    data = pictures.original(record)
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
        raise LunglineError("No reader has confirmed or corrected an X-ray yet: there is nothing to export.")
    return counts, gone


def _labelled(database: Database, last: int) -> list[tuple[WorklistEntry, ResultRecord]]:
    with database.reading() as session:
        return [(entry, ResultRecord.model_validate_json(body)) for entry, body in _rows(session, last)]


def _rows(session: Session, last: int) -> list[tuple[WorklistEntry, str]]:
    asked = select(WorklistEntry, ResultRow.body).join(ResultRow, ResultRow.id == WorklistEntry.record)
    labelled = asked.where(WorklistEntry.number > last, *_LABELLED).order_by(WorklistEntry.number).limit(BATCH)
    return [(row[0], row[1]) for row in session.execute(labelled)]


def _place(entry: WorklistEntry, record: ResultRecord, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    owner = patient(entry.key, pattern)
    # The public data set's patients keep their names; all others get one that tells nothing.
    alias = owner if patient_of(f"{owner}_") == owner else f"person{int(_digest(owner)[:12], 16)}"
    ending = _ENDINGS.get(record.image.format.lower() if record.image else "", "")
    return f"{split(owner)}/{FOLDERS[entry.verdict or '']}", f"{alias}_{entry.identity}{ending}"


def _line(entry: WorklistEntry, name: str) -> tuple[object, ...]:
    at = entry.read_at.isoformat() if entry.read_at else None
    return (name, entry.identity, entry.verdict, entry.action, entry.version, entry.label, entry.probability, at)


def _digest(owner: str) -> str:
    return hashlib.sha256(f"lungline feedback {owner}".encode("utf-8", "surrogateescape")).hexdigest()
