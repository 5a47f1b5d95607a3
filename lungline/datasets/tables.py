"""Labels in tables beside the images, as the large public sets publish them.

    Image Index,Finding Labels,Patient ID          NIH: values of one column, separated by |
    Path,No Finding,Pneumonia,...                  CheXpert: a column for each finding; -1 is uncertain
    image_id,class_name,rad_id                     VinDr: a row for each reader and finding
    patientId,Target                               RSNA: an image's name without its extension

A table fits a task if it has a column of images and names a finding of the task. Several rows of an image are taken
together: in columns of 0 and 1 the majority decides, of values in a label column all count.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lungline.datasets.dataset import Example, patient_of, printable
from lungline.datasets.folder_names import is_document, is_hidden, is_mask_folder, is_table, split_of, stem
from lungline.datasets.sources import Source
from lungline.errors import DataError
from lungline.task.task import Task

IMAGES = (
    *("image index", "path", "image_id", "image id", "image", "file", "filename", "file_name", "dicom_id"),
    "patientid",  # RSNA has one image of each patient
)
PATIENTS = ("patient id", "patient_id", "patientid", "patient", "subject_id", "subject id")
SPLITS_IN = ("split", "set", "subset")
LABELS_IN = ("finding labels", "class_name", "class", "label", "labels", "finding", "findings", "diagnosis")
_YES, _NO, _UNCERTAIN = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no"}, {"-1", "-1.0"}
_PATIENT_FOLDER = re.compile(r"patient\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tabled:
    """The examples of tables, the path of each by its name, and remarks in words."""

    examples: tuple[Example, ...]
    paths: dict[str, str]
    remarks: tuple[str, ...]


@dataclass(slots=True)
class _Row:
    """What the rows of one image say: votes for each finding, by its place, and other facts."""

    votes: dict[int, list[float]] = field(default_factory=lambda: defaultdict[int, list[float]](list))
    uncertain: bool = False
    needs_negative: bool = False
    patient: str | None = None
    split: str | None = None

    def present(self) -> frozenset[int]:
        """The places of the findings that are there."""
        here = frozenset(at for at, votes in self.votes.items() if sum(votes) * 2 >= len(votes) and any(votes))
        return here - {0} if len(here) > 1 else here


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a table by what they mean; `findings` are places by column."""

    image: str
    patient: str | None
    split: str | None
    label: str | None
    findings: Mapping[str, int]


def read_tables(source: Source, task: Task, *, only_split: str | None = None) -> Tabled | None:
    """The labelled images that the tables of a source name; None when no table fits the task.

    Without splits in tables, folders or lists, all images are `only_split`, else train. Raises DataError for a cell
    that is no label, and when no image has both a file and a label.
    """
    paths = [path for path in source.paths() if not is_hidden(tuple(path.split("/")))]
    rows: dict[str, _Row] = {}
    tables = [path for path in paths if is_table(path.rpartition("/")[2])]
    fitting = [path for path in tables if _read(source, path, task, rows)]
    if not fitting:
        return None
    images = _Images([path for path in paths if _may_be_image(path)])
    lists = _lists(source, paths)
    labelled: dict[str, Example] = {}
    left: Counter[str] = Counter()
    for named, row in rows.items():
        path, label = images.path_of(named), _label_of(row, task)
        reason = "whose image is not there" if path is None else label if isinstance(label, str) else None
        if path is None or isinstance(label, str):
            left[str(reason)] += 1
            continue
        split = row.split or lists.get(path.rpartition("/")[2]) or _split_in(path)
        labelled[path] = _example(path, label, row, split or only_split or "train", task)
    if not labelled:
        raise DataError(f"No image of {', '.join(fitting)} has both a file and a label: {'; '.join(_remarks(left))}.")
    names = {example.name: path for path, example in labelled.items()}
    remarks = (f"read labels from {', '.join(map(printable, fitting))}", *_remarks(left))
    return Tabled(tuple(labelled.values()), names, remarks)


def _may_be_image(path: str) -> bool:
    *folders, name = path.split("/")
    return not is_document(name) and not any(map(is_mask_folder, folders))


def _read(source: Source, path: str, task: Task, rows: dict[str, _Row]) -> bool:
    """Add the rows of a table that fits; whether it does."""
    text = source.read(path).decode("utf-8-sig", "replace")
    dialect = "excel-tab" if path.lower().endswith(".tsv") else "excel"
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    try:
        columns = _columns(reader.fieldnames or (), task)
        if columns is None:
            return False
        needs_negative = columns.label is not None or 0 in columns.findings.values()
        for number, line in enumerate(reader, 2):
            image = (line[columns.image] or "").strip()
            row = rows.setdefault(image, _Row())
            row.needs_negative |= needs_negative
            row.patient = row.patient or (columns.patient and line[columns.patient]) or None
            row.split = row.split or _split_of(line, columns, path)
            for at, vote in _votes(line, columns, task, f"{printable(path)}, row {number}"):
                if vote is None:
                    row.uncertain = True
                else:
                    row.votes[at].append(vote)
    except csv.Error as exc:
        raise DataError(f"{printable(path)} cannot be read as a table: {exc}.") from exc
    return True


def _columns(names: Iterable[str | None], task: Task) -> _Columns | None:
    there = {(name or "").strip().casefold(): name or "" for name in names}
    places = {column.casefold(): at for at, finding in enumerate(task.findings) for column in finding.columns}
    findings = {name: places[folded] for folded, name in there.items() if folded in places}
    usual = (IMAGES, PATIENTS, SPLITS_IN, LABELS_IN)
    image, patient, split, label = (next((there[name] for name in names if name in there), None) for names in usual)
    # A column of the task's own is a finding, whatever it is called.
    label = None if label in findings else label
    if image is None or not (label or any(findings.values())):
        return None
    return _Columns(image, patient, split, None if findings else label, findings)


def _votes(
    line: Mapping[str, str | None], columns: _Columns, task: Task, where: str
) -> Iterator[tuple[int, float | None]]:
    """What a row says: the place of a finding, and 1 or 0; None for an image that is to be left out."""
    for name, at in columns.findings.items():
        cell = (line[name] or "").strip().casefold()
        if cell in _UNCERTAIN:
            yield at, {"present": 1.0, "absent": 0.0}.get(task.uncertain)
        elif cell in _YES or cell in _NO:
            yield at, float(cell in _YES)
        else:
            raise DataError(f"{where}: expected 0, 1, -1 or nothing in column {name!r}; found {cell!r}.")
    if columns.label:
        values = {value.strip().casefold() for value in (line[columns.label] or "").split("|")}
        for at, finding in enumerate(task.findings):
            names = {finding.name.casefold(), finding.label.casefold(), *(name.casefold() for name in finding.columns)}
            if values & names:
                yield at, 1.0


def _split_of(line: Mapping[str, str | None], columns: _Columns, path: str) -> str | None:
    named = split_of((line[columns.split] or "").strip()) if columns.split else None
    return named or split_of(stem(path.rpartition("/")[2]))


def _split_in(path: str) -> str | None:
    return next((split for folder in path.split("/")[:-1] if (split := split_of(folder))), None)


def _label_of(row: _Row, task: Task) -> int | str:
    """The label of an image, or why it has none."""
    if row.uncertain:
        return "with an uncertain label"
    present = row.present()
    positive = present - {0}
    if len(positive) > 1 and task.kind != "many-at-once":
        return "with several findings of the task"
    if not present and row.needs_negative and task.kind != "many-at-once":
        return f"with no finding of the task, {', '.join(task.names)}"
    return task.label_for(positive)


def _example(path: str, label: int, row: _Row, split: str, task: Task) -> Example:
    shown = printable(path)
    folder = _PATIENT_FOLDER.search(shown)
    patient = row.patient or patient_of(shown) or (folder.group() if folder else None)
    return Example(f"{split}/{task.called(label)}/{shown}", split, label, patient, task.kind_of(label, shown))


def _lists(source: Source, paths: Sequence[str]) -> dict[str, str]:
    """The split of each file that a list such as `test_list.txt` or `train_val_list.txt` names."""
    splits: dict[str, str] = {}
    for path in paths:
        words = re.split(r"[\W_]+", path.rpartition("/")[2].lower())
        if words[-2:] == ["list", "txt"] and (split := split_of(words[0])):
            splits |= dict.fromkeys(source.read(path).decode("utf-8", "replace").split(), split)
    return splits


def _remarks(left: Counter[str]) -> Iterator[str]:
    for reason, count in sorted(left.items()):
        yield f"left out {count:,} image{'' if count == 1 else 's'} {reason}"


class _Images:
    """The image files of a source, by what tables call them: a path, its end, or a name without extension."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = {path: path for path in paths}
        self._ends: dict[int, dict[str, str | None]] = {}
        self._stems = _unique((stem(path.rpartition("/")[2]), path) for path in paths)

    def path_of(self, named: str) -> str | None:
        """The path of the image that a table names so; None where there is none, or several."""
        parts = [part for part in named.replace("\\", "/").split("/") if part not in ("", ".")]
        for at in range(len(parts)):
            if path := self._paths.get("/".join(parts[at:])):
                return path
        count = len(parts)
        if count not in self._ends:
            self._ends[count] = _unique(("/".join(path.split("/")[-count:]), path) for path in self._paths)
        return self._ends[count].get("/".join(parts)) or (self._stems.get(parts[0]) if count == 1 else None)


def _unique(named: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Paths by name; None for a name of several."""
    paths: dict[str, str | None] = {}
    for name, path in named:
        paths[name] = None if name in paths else path
    return paths
