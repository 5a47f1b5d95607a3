"""Readings as a data set, in the folder layout that training reads.

    train/PNEUMONIA/person1234_0f3a....jpeg    a pseudonym of the patient, and the upload's identity
    train/images/person1234_0f3a....jpeg       where a task may have many findings at once
    labels.csv                                 the origin of each label, and such findings; no reader, no object key

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

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from lungline.datasets.dataset import patient_in, patient_of, patient_pattern
from lungline.errors import LunglineError, ObjectGone
from lungline.results.records import ResultRecord
from lungline.task.finding import words_of
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.task.terms import Presence
from worklist.database import audit
from worklist.database.models import Checkpoint, ReadingRow, ResultRow, WorklistEntry
from worklist.database.readings import latest_verdict, record_of
from worklist.database.session import Database
from worklist.exports.images import ImageRenderer

IMAGES = "images"
"""The folder of images whose findings are columns of labels.csv, because there may be many at once."""
COLUMNS = ("file", "identity", "verdict", "action", "model_version", "model_label", "probability", "at")
CHECKPOINT = "last training"
BATCH = 200
# Percentiles of patients: below the first, test; below the second, validation; the rest, train.
_TEST, _VALIDATION = 10, 20
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
    *,
    task: Task | None = None,
) -> Exported:
    """Write all confirmed and corrected X-rays of a task to a new or empty `folder`, which appears once it is complete.

    Raises LunglineError when there is nothing to export, StorageUnavailable when images cannot be fetched.
    """
    expression = patient_pattern(pattern)
    if folder.exists() and any(folder.iterdir()):
        raise LunglineError(f"The folder {folder} already holds files; choose a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        counts, gone = _write(database, images, draft, _Wanted(task or default_task(), expression), on_progress)
        with database.writing() as session:
            audit.record(session, who, "admin", "exported", detail=f"feedback, {sum(counts.values())} images")
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Exported(folder, dict(sorted(counts.items())), gone)


def retrain_check(database: Database, needed: int, task: Task | None = None) -> RetrainCheck:
    """Count the uploads of a task that were labelled since the last training run."""
    task = task or default_task()
    with database.reading() as session:
        checkpoint = session.get(Checkpoint, CHECKPOINT)
        trained = checkpoint.value if checkpoint else 0
        new = select(ReadingRow.identity).where(
            ReadingRow.task == task.name, ReadingRow.verdict.in_(task.labels), ReadingRow.number > trained
        )
        last = session.scalar(select(ReadingRow.number).order_by(ReadingRow.number.desc()).limit(1)) or 0
        usable = session.scalar(select(func.count()).select_from(WorklistEntry).where(*_labels(task))) or 0
        return RetrainCheck(len(session.scalars(new.distinct()).all()), needed, last, usable)


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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The task whose readings are wanted, and where a patient is in a key."""

    task: Task
    pattern: re.Pattern[str] | None

    @property
    def columns(self) -> dict[str, str]:
        """Columns of 0 and 1 of labels.csv by the findings' names, where many may be there at once."""
        task = self.task
        is_many = task.kind == "many-at-once"
        return {each.name: (*each.columns, each.label)[0] for each in task.positives} if is_many else {}

    def folder(self, verdict: str | None) -> str:
        """The folder of images with a verdict: a name that reading takes for this finding alone."""
        task = self.task
        if self.columns:
            return IMAGES
        finding = next(each for each in task.findings if each.label == verdict)
        names = (finding.name, *finding.folders)
        others = [each for each in task.findings if each is not finding]
        fitting = (
            name
            for name in names
            if finding.is_named_by(words_of(name)) and not any(each.is_named_by(words_of(name)) for each in others)
        )
        return next(fitting, finding.name)


def _labels(task: Task) -> tuple[ColumnElement[bool], ...]:
    """Settled cases of a task; a reopened one is not."""
    settled = (WorklistEntry.read == 1, WorklistEntry.outcome == "judged")
    return (*settled, WorklistEntry.task == task.name, WorklistEntry.verdict.in_(task.labels))


def _write(
    database: Database,
    images: ImageRenderer,
    draft: Path,
    wanted: _Wanted,
    on_progress: Callable[[int], None] | None,
) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    gone = last = 0
    with (draft / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow((*COLUMNS, *wanted.columns.values()))
        while batch := _labelled(database, last, wanted):
            for entry, record, findings in batch:
                last = entry.number
                try:
                    data = images.original(record)
                except ObjectGone:
                    gone += 1
                    continue
                place, name = _place(entry, record, wanted)
                (draft / place).mkdir(parents=True, exist_ok=True)
                (draft / place / name).write_bytes(data)
                there = (int(findings.get(name) == "present") for name in wanted.columns)
                table.writerow((*_line(entry, f"{place}/{name}"), *there))
                counts[place] += 1
            if on_progress:
                on_progress(sum(counts.values()))
    if not counts:
        raise LunglineError("No X-ray has been confirmed or corrected yet; there is nothing to export.")
    return counts, gone


def _labelled(
    database: Database, last: int, wanted: _Wanted
) -> list[tuple[WorklistEntry, ResultRecord, dict[str, Presence]]]:
    with database.reading() as session:
        rows = _rows(session, last, wanted.task)
        findings = {entry.identity: _findings(session, entry) if wanted.columns else {} for entry, _ in rows}
        return [(entry, ResultRecord.model_validate_json(body), findings[entry.identity]) for entry, body in rows]


def _findings(session: Session, entry: WorklistEntry) -> dict[str, Presence]:
    reading = latest_verdict(session, entry.identity)
    return record_of(reading).findings if reading else {}


def _rows(session: Session, last: int, task: Task) -> list[tuple[WorklistEntry, str]]:
    statement = select(WorklistEntry, ResultRow.body).join(ResultRow, ResultRow.id == WorklistEntry.record)
    labelled = statement.where(WorklistEntry.number > last, *_labels(task)).order_by(WorklistEntry.number).limit(BATCH)
    return [(row[0], row[1]) for row in session.execute(labelled)]


def _place(entry: WorklistEntry, record: ResultRecord, wanted: _Wanted) -> tuple[str, str]:
    owner = patient(entry.key, wanted.pattern)
    # Patients of the public data set keep their names; all others get a pseudonym.
    alias = owner if patient_of(f"{owner}_") == owner else f"person{int(_digest(owner)[:12], 16)}"
    ending = _ENDINGS.get(record.image.format.lower() if record.image else "", "")
    return f"{split(owner)}/{wanted.folder(entry.verdict)}", f"{alias}_{entry.identity}{ending}"


def _line(entry: WorklistEntry, name: str) -> tuple[object, ...]:
    at = entry.read_at.isoformat() if entry.read_at else None
    return (name, entry.identity, entry.verdict, entry.action, entry.version, entry.label, entry.probability, at)


def _digest(owner: str) -> str:
    return hashlib.sha256(f"lungline feedback {owner}".encode("utf-8", "surrogateescape")).hexdigest()
