"""Open a data set of labelled X-rays by its name: a path, an address or a keyword."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lungline.datasets.archives import ZipSource
from lungline.datasets.dataset import SPLITS, Dataset, Example, cut_validation, printable
from lungline.datasets.folder_names import split_of
from lungline.datasets.layout import find_layout
from lungline.datasets.medmnist import MEDMNIST, MedMNIST
from lungline.datasets.phantom_dataset import PHANTOMS, open_phantoms
from lungline.datasets.prepared import Prepared, Row, prepare
from lungline.datasets.reader_labels import merge
from lungline.datasets.sources import ArraySource, FolderSource, S3Source, Source
from lungline.datasets.tables import Tabled, read_tables
from lungline.errors import DataError
from lungline.settings import Settings
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage
from lungline.task.reading import default_task, load_task
from lungline.task.task import Task

__all__ = [
    "SPLITS",
    "Dataset",
    "Example",
    "Prepared",
    "Row",
    "open_dataset",
    "open_labelled",
    "open_source",
    "prepare",
]

SPECS = "a folder, a zip, an .npz, medmnist:28|64|128|224, s3://bucket/prefix, phantom[:N] or auto"
_LONGEST_SHOWN = 200
# The size that the default network takes.
_AUTO_SIZE = 64


def open_dataset(
    spec: str = "auto",
    *,
    settings: Settings,
    require: Sequence[str] = SPLITS,
    feedback: str | None = None,
    medmnist: MedMNIST = MEDMNIST,
    task: Task | None = None,
) -> Dataset:
    """The data set that `spec` names: a folder, a zip, an .npz, medmnist:SIZE, s3://, phantom[:N], or auto.

    `auto` is the setting `data`; when that is auto too, a cached download, else a download, else phantoms with a
    notice. `require` names the splits that must have both classes; a missing val is cut from train by patient.
    With one required split, images may also lie in class folders without a split's folder. `feedback` names reader
    labels to merge in: a folder, a zip or s3:// as `lungline feedback export` writes it. `task` says
    what the labels stand for; without it, the setting `task` does.
    Raises DataError with what was expected and what was found.

        dataset = open_dataset("phantom:100", settings=Settings())
    """
    task = task or load_task(settings.task)
    if spec == "auto":
        spec = settings.data
    dataset = _open_auto(settings, medmnist, task) if spec == "auto" else _open(spec, settings, require, medmnist, task)
    if "val" in require and not dataset.of("val"):
        dataset = replace(dataset, examples=cut_validation(dataset.examples))
    if feedback:
        dataset = merge(dataset, _open(feedback, settings, (), medmnist, task))
    _check_classes(dataset, require)
    return dataset


def open_labelled(spec: str, *, settings: Settings, task: Task | None = None) -> Dataset:
    """Every labelled image that `spec` names, whatever its split; class folders need no split's folder."""
    return _open(spec, settings, ("test",), MEDMNIST, task or load_task(settings.task))


def open_source(spec: str, *, settings: Settings) -> tuple[str, Source] | None:
    """The name and the files of a folder, a zip or an S3 prefix; None where `spec` names phantoms or arrays."""
    if spec.partition(":")[0] in ("phantom", "medmnist"):
        return None
    if spec.startswith("s3://"):
        bucket, prefix = parse_uri(spec)
        if {".", ".."} & set(prefix.split("/")):
            raise DataError(f"{spec}: expected a prefix without the parts . and .., which mean no folder in a bucket.")
        return spec, S3Source(Storage.from_settings(settings), bucket, prefix, settings.image_max_bytes)
    path = _existing(spec)
    if path.is_dir():
        return path.resolve().name, FolderSource(path, settings.image_max_bytes)
    zipped = ZipSource(path, settings.image_max_bytes)
    return None if zipped.has_arrays else (path.name, zipped)


def _open(spec: str, settings: Settings, require: Sequence[str], medmnist: MedMNIST, task: Task) -> Dataset:
    kind, _, rest = spec.partition(":")
    if kind == "phantom":
        return open_phantoms(rest or str(PHANTOMS), task)
    if kind == "medmnist":
        return _open_medmnist(rest, medmnist, task)
    if files := open_source(spec, settings=settings):
        return _laid_out(*files, require, task)
    path = Path(spec).expanduser()
    return _in_arrays(path.name, path, task)


def _existing(spec: str) -> Path:
    """The folder or file that `spec` names. Raises DataError when it is neither."""
    shown = printable(spec) if len(spec) <= _LONGEST_SHOWN else f"{printable(spec[:_LONGEST_SHOWN])}..."
    try:
        path = Path(spec).expanduser()
        if spec.strip() and (path.is_dir() or path.is_file()):
            return path
    except (OSError, RuntimeError, ValueError) as exc:  # no permission, a name too long, a user who is not there
        raise DataError(f"{shown} cannot be opened: {getattr(exc, 'strerror', None) or exc}.") from exc
    raise DataError(f"There is no data at {shown.strip() or 'an empty name'}; expected {SPECS}.")


def _laid_out(name: str, source: Source, require: Sequence[str], task: Task) -> Dataset:
    """The data set of a source with folders; `require` of one split allows class folders without a split."""
    name = printable(name)
    only = require[0] if len(require) == 1 else None
    try:
        # Folders say one finding of an image; where there may be many, a table says more.
        if task.kind == "many-at-once" and (tabled := read_tables(source, task, only_split=only)):
            return _tabled(name, source, tabled, require, task)
        layout = find_layout(source.paths(), only_split=only, task=task)
    except DataError as exc:
        tabled = None if task.kind == "many-at-once" else read_tables(source, task, only_split=only)
        if tabled:
            return _tabled(name, source, tabled, require, task)
        raise DataError(f"{name}: {exc}") from exc
    remarks = [*layout.remarks]
    named = split_of(name.rstrip("/").rpartition("/")[2].removesuffix(".zip"))
    if only and named and named != only and layout.whole:
        remarks.append(f"its name says {named}, but all of it is taken as {only}")
    notice = f"{name}: {'; '.join(remarks)}." if remarks else None

    def read(example: Example) -> bytes:
        return source.read(layout.paths[example.name])

    return Dataset(name, layout.examples, read, notice=notice, task=task)


def _tabled(name: str, source: Source, tabled: Tabled, require: Sequence[str], task: Task) -> Dataset:
    """The data set of tables; without a test split, that of validation is one, else a fifth of the patients."""
    examples, remarks = tabled.examples, [*tabled.remarks]
    splits = {example.split for example in examples}
    if "test" in require and "test" not in splits:
        if "val" in splits:
            examples = tuple(replace(each, split="test") if each.split == "val" else each for each in examples)
            remarks.append("took its validation split as test")
        else:
            examples = cut_validation(examples, 0.2, into="test")
            remarks.append("took a fifth of its patients as test")

    def read(example: Example) -> bytes:
        return source.read(tabled.paths[example.name])

    return Dataset(name, examples, read, notice=f"{name}: {'; '.join(remarks)}.", task=task)


def _in_arrays(name: str, file: Path, task: Task) -> Dataset:
    source = ArraySource(file, task)
    return Dataset(printable(name), tuple(source.examples()), source.read, task=task)


def _open_medmnist(size: str, medmnist: MedMNIST, task: Task) -> Dataset:
    spec, named = f"medmnist:{size}", ":" in size
    if named:
        name, _, size = size.partition(":")
        medmnist = MedMNIST.named(name)
    sizes = [str(size) for size in medmnist.files]
    if size not in sizes:
        form = "medmnist:NAME:SIZE" if named else "medmnist:SIZE"
        raise DataError(f"Expected {form} with SIZE one of {', '.join(sizes)}; found {size or 'none'}.")
    return _in_arrays(spec, medmnist.download(int(size)), task)


def _open_auto(settings: Settings, medmnist: MedMNIST, task: Task) -> Dataset:
    """Real data where there are any, else phantoms with the reason. Raises DataError for a task that has neither."""
    if task.name != default_task().name:
        raise DataError(f"The task {task.name} brings no data along: name them with --data or LUNGLINE_DATA.")
    why = "downloads are off"
    if not settings.offline or medmnist.cached(_AUTO_SIZE):
        try:
            return _open_medmnist(str(_AUTO_SIZE), medmnist, task)
        except DataError:
            why = "PneumoniaMNIST could not be downloaded from zenodo.org"
    phantoms = open_phantoms(str(PHANTOMS), task)
    notice = f"LUNGLINE_DATA is not set and {why}, so synthetic phantoms are used. {phantoms.notice}"
    return replace(phantoms, notice=notice)


def _check_classes(dataset: Dataset, require: Sequence[str]) -> None:
    task = dataset.task
    counts = Counter((example.split, at) for example in dataset.examples for at in task.present(example.label))
    every = "both classes" if len(task.findings) == 2 else "all findings"
    for split in require:
        for place, title in enumerate(task.names):
            if not counts[split, place]:
                images = ", ".join(f"{counts[split, at]} {other}" for at, other in enumerate(task.names))
                raise DataError(
                    f"{dataset.name}: expected {every} in {split}; found no {title} image ({images})."
                    + (f" {dataset.notice}" if dataset.notice else "")
                )
