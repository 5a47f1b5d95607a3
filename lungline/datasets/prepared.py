"""A data set prepared for training: one array of pixels, and a table with one row for each image.

A prepared folder holds `index.csv` (the table), `pixels.npy` (uint8 (N, size, size) in the same order; zeros where an
image could not be decoded), `originals.zip` (the unchanged files of val and test, so that evaluation sees what serving
sees) and `dataset.json`.
"""

import csv
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lungline.datasets.dataset import READ_THREADS, SPLITS, Dataset, Example, digest_of
from lungline.datasets.reader_labels import PREFIX
from lungline.errors import DataError, ImageRefused
from lungline.imaging.image import Limits, Pixels
from lungline.imaging.preparation import Preparation
from lungline.task.reading import default_task
from lungline.task.task import Task

INDEX, PIXELS, ORIGINALS, FACTS = "index.csv", "pixels.npy", "originals.zip", "dataset.json"

# Image files in memory at a time.
_WINDOW = 256
# A fixed time in the archive: the same data give the same file, which pipeline caching depends on.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One image in the table.

    `mean`, `std`, `low` and `high` are of the decoded grey levels (0 to 255). `error` is empty, or says in a sentence
    why there are no pixels; then `format` is empty and the numbers about pixels are 0.
    """

    name: str
    split: str
    label: int
    patient: str | None
    kind: str
    sha256: str
    bytes: int
    width: int = 0
    height: int = 0
    format: str = ""
    mean: float = 0.0
    std: float = 0.0
    low: int = 0
    high: int = 0
    error: str = ""

    @property
    def example(self) -> Example:
        """The example that the row describes."""
        return Example(self.name, self.split, self.label, self.patient, self.kind)


def prepare(
    dataset: Dataset,
    preparation: Preparation,
    folder: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    on_progress: Callable[[int, int], None] | None = None,
) -> "Prepared":
    """Write the prepared form of a data set into a folder, and load it.

    An image that cannot be read or decoded becomes a row with its error: the data contract decides what follows.
    `on_progress` is called with the number of images done and the total.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, size = len(dataset.examples), preparation.size
    pixels = np.lib.format.open_memmap(folder / PIXELS, "w+", np.uint8, (total, size, size))
    rows: list[Row] = []
    with zipfile.ZipFile(folder / ORIGINALS, "w") as originals:
        for row, small, data in _examined(dataset, preparation, limits):
            if small is not None:
                pixels[len(rows)] = small
            if small is not None and row.split != "train":
                originals.writestr(zipfile.ZipInfo(f"{len(rows):07d}", _EPOCH), data)
            rows.append(row)
            if on_progress:
                on_progress(len(rows), total)
    pixels.flush()
    _write_index(folder / INDEX, rows)
    (folder / FACTS).write_text(json.dumps(_facts(dataset, preparation, rows), indent=2) + "\n", encoding="utf-8")
    return Prepared.load(folder)


def _examined(dataset: Dataset, preparation: Preparation, limits: Limits) -> Iterator[tuple[Row, Pixels | None, bytes]]:
    """Row, pixels and bytes of each example in order, computed by several threads, one window at a time."""
    examine = partial(_examine, dataset, preparation, limits)
    examples = iter(dataset.examples)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        while window := list(islice(examples, _WINDOW)):
            yield from pool.map(examine, window)


def _examine(
    dataset: Dataset, preparation: Preparation, limits: Limits, example: Example
) -> tuple[Row, Pixels | None, bytes]:
    facts = (example.name, example.split, example.label, example.patient, example.kind)
    try:
        data = dataset.read(example)
    except DataError as exc:
        return Row(*facts, sha256="", bytes=0, error=str(exc)), None, b""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = preparation.decode(data, limits)
    except ImageRefused as exc:
        return Row(*facts, sha256, len(data), error=str(exc)), None, data
    grey = image.pixels
    row = Row(
        *facts,
        sha256,
        len(data),
        image.width,
        image.height,
        image.format,
        round(float(grey.mean()), 3),
        round(float(grey.std()), 3),
        int(grey.min()),
        int(grey.max()),
    )
    return row, preparation.resize(image), data


def _facts(dataset: Dataset, preparation: Preparation, rows: Sequence[Row]) -> dict[str, Any]:
    task = dataset.task
    counts = Counter((row.split, at) for row in rows for at in task.present(row.label))
    return {
        "name": dataset.name,
        "digest": dataset.digest if dataset.recipe else digest_of((row.example, row.sha256) for row in rows),
        "synthetic": dataset.synthetic,
        "notice": dataset.notice,
        "preparation": asdict(preparation),
        "counts": {split: {name: counts[split, at] for at, name in enumerate(task.names)} for split in SPLITS},
        "patients": {split: len({row.patient or row.name for row in rows if row.split == split}) for split in SPLITS},
        "task": task.model_dump(mode="json"),
    }


def _write_index(file: Path, rows: Sequence[Row]) -> None:
    # A file name may hold bytes that are not UTF-8; they survive the round trip.
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out:
        writer = csv.writer(out)
        writer.writerow(each.name for each in fields(Row))
        writer.writerows(astuple(row) for row in rows)


def _read_index(file: Path) -> Iterator[Row]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        for line in csv.DictReader(lines):
            values: dict[str, Any] = {**line, "patient": line["patient"] or None}
            for each in fields(Row):
                if each.type in (int, float):
                    values[each.name] = each.type(values[each.name])
            yield Row(**values)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    `pixels` is uint8 (N, size, size) in the order of `index`, memory-mapped and read-only.
    `counts` has the number of images by split and finding, `patients` the number of patients by split. `task` says
    what the labels stand for.
    """

    folder: Path
    name: str
    digest: str
    synthetic: bool
    notice: str | None
    preparation: Preparation
    counts: dict[str, dict[str, int]]
    patients: dict[str, int]
    index: tuple[Row, ...]
    pixels: Pixels
    task: Task = field(default_factory=default_task, repr=False)

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """The prepared data set in a folder. Raises DataError when it is none, or damaged."""
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            index = tuple(_read_index(folder / INDEX))
            pixels = np.load(folder / PIXELS, mmap_mode="r", allow_pickle=False)
            # Before tasks there was one.
            task = Task.model_validate(facts["task"]) if "task" in facts else default_task()
            parts = {"preparation": Preparation(**facts["preparation"]), "task": task}
            prepared = cls(folder, **facts | parts, index=index, pixels=pixels)
        except (OSError, EOFError, ValueError, TypeError, KeyError, csv.Error) as exc:
            raise DataError(f"{folder} is not a prepared data set: {exc}.") from exc
        if len(index) != len(pixels):
            raise DataError(f"{folder} is damaged: {INDEX} has {len(index)} rows, {PIXELS} {len(pixels)} images.")
        return prepared

    @property
    def feedback(self) -> int:
        """The number of reader labels."""
        return sum(row.name.startswith(PREFIX) for row in self.index)

    def of(self, split: str) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """Pixels uint8 (n, size, size) and labels (n,) of one split, without images that could not be decoded."""
        chosen = [at for at, row in enumerate(self.index) if row.split == split and not row.error]
        return np.asarray(self.pixels[chosen]), np.array([self.index[at].label for at in chosen], np.int64)

    def rows(self, split: str) -> tuple[Row, ...]:
        """The rows of one split, in the order of `of`."""
        return tuple(row for row in self.index if row.split == split and not row.error)

    def originals(self, split: str) -> Iterator[tuple[Row, bytes]]:
        """The rows of val or test, each with the bytes of its file, in the order of `of`.

        Raises DataError when the originals are missing, as those of train always are.
        """
        try:
            with zipfile.ZipFile(self.folder / ORIGINALS) as archive:
                for at, row in enumerate(self.index):
                    if row.split == split and not row.error:
                        yield row, archive.read(f"{at:07d}")
        except (OSError, KeyError, zipfile.BadZipFile) as exc:
            raise DataError(f"{self.folder / ORIGINALS} does not have the originals of {split}: {exc}.") from exc
