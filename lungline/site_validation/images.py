"""The images of a site: in class folders, listed in a table of labels, or without labels."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lungline.datasets.dataset import Dataset, patient_in, patient_pattern
from lungline.datasets.folder_names import findings_of, is_document, is_hidden, is_mask_folder, label_of
from lungline.datasets.opening import open_labelled, open_source
from lungline.datasets.sources import Source
from lungline.errors import DataError
from lungline.settings import Settings
from lungline.task.reading import default_task
from lungline.task.task import Task

LEAST = 100
"""Images below which neither a share nor a threshold is worth proposing."""

_LABELS = {"0": 0, "1": 1}


@dataclass(frozen=True, slots=True)
class SiteImage:
    """One image; `path` may hold a patient's name and is never shown. `label` is None without one."""

    path: str = field(repr=False)
    label: int | None = None
    patient: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SiteImages:
    """The images of a site, with a reader of their bytes and sentences for the user."""

    name: str
    images: tuple[SiteImage, ...] = field(repr=False)
    read: Callable[[SiteImage], bytes] = field(repr=False)
    notices: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool(self.images) and all(image.label is not None for image in self.images)

    def files(self) -> Iterator[tuple[SiteImage, bytes | None]]:
        """Each image with the bytes of its file; None for a file that cannot be read."""
        for image in self.images:
            try:
                yield image, self.read(image)
            except DataError:
                yield image, None


def open_site(
    spec: str,
    *,
    settings: Settings,
    labels: Path | None = None,
    trained_on: str = "",
    most: int = 2000,
    task: Task | None = None,
) -> SiteImages:
    """The images that `spec` names: with the labels of class folders or of a table, else without.

    At most `most` are taken, at random. `trained_on` is the name of the model's own data: of data with that name only
    the test split is used. `task` says what folders and labels are called. Raises DataError for fewer than 100 images,
    and for a table that cannot be used.
    """
    task = task or default_task()
    files = open_source(spec, settings=settings)
    if labels is not None:
        site = _from_table(files, labels, task)
    elif files is None or _has_class_folders(files[1].paths(), task):
        site = _from_folders(open_labelled(spec, settings=settings, task=task), trained_on)
    else:
        name, source = files
        paths = [path for path in source.paths() if _may_be_image(path)]
        site = SiteImages(name, tuple(map(SiteImage, paths)), lambda image: source.read(image.path))
    pattern = patient_pattern(settings.worklist.patient_pattern)
    images = [replace(image, patient=image.patient or patient_in(image.path, pattern)) for image in site.images]
    return _limited(SiteImages(site.name, tuple(images), site.read, site.notices), most)


def _limited(site: SiteImages, most: int) -> SiteImages:
    total = len(site.images)
    if total < LEAST:
        raise DataError(f"{site.name}: expected at least {LEAST} images of the site; found {total}.")
    if total <= most:
        return site
    chosen: list[int] = np.sort(np.random.default_rng(0).permutation(total)[:most]).tolist()
    notice = f"{most} of {total:,} images were taken at random."
    return replace(site, images=tuple(site.images[at] for at in chosen), notices=(*site.notices, notice))


def _from_folders(dataset: Dataset, trained_on: str) -> SiteImages:
    examples, notices = dataset.examples, [dataset.notice] if dataset.notice else []
    # Labels of readers, merged in, leave "chest_xray.zip with 12 reader labels".
    if dataset.name == trained_on.partition(" with ")[0] and dataset.of("test"):
        examples = dataset.of("test")
        notices.append(f"The model was trained on data named {dataset.name}: only its test split is used.")
    by_path = {example.name: example for example in examples}

    def read(image: SiteImage) -> bytes:
        return dataset.read(by_path[image.path])

    images = tuple(SiteImage(example.name, int(example.label > 0), example.patient) for example in examples)
    return SiteImages(dataset.name, images, read, tuple(notices))


def _from_table(files: tuple[str, Source] | None, table: Path, task: Task) -> SiteImages:
    if files is None:
        raise DataError("A table of labels goes with a folder, a zip or an S3 prefix; these data have labels already.")
    name, source = files
    paths = [path for path in source.paths() if _may_be_image(path)]
    by_name = {**{path.rpartition("/")[2]: path for path in paths}, **{path: path for path in paths}}
    ambiguous = {file for file, count in Counter(path.rpartition("/")[2] for path in paths).items() if count > 1}
    labels: dict[str, int] = {}
    missing = 0
    for row, (file, label) in enumerate(_rows(table, task), 2):
        path = by_name.get(file)
        if path is None or (path != file and file in ambiguous):
            missing += 1
            continue
        if labels.setdefault(path, label) != label:
            raise DataError(f"{table.name}: row {row} gives an image another label than a row before it.")
    images = tuple(SiteImage(path, labels[path]) for path in paths if path in labels)
    notices = [f"{missing} rows of {table.name} name no image, or several."] if missing else []
    if len(paths) > len(images):
        notices.append(f"{len(paths) - len(images)} images are not in {table.name} and were left out.")
    return SiteImages(name, images, lambda image: source.read(image.path), tuple(notices))


def _rows(table: Path, task: Task) -> Iterator[tuple[str, int]]:
    """File and label of each row of a CSV with the columns `file` and `label`."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            if not {"file", "label"} <= columns.keys():
                names = ", ".join(columns) or "none"
                raise DataError(f"{table.name}: expected the columns file and label; found {names}.")
            negative, positive = task.names
            for row, line in enumerate(reader, 2):
                text = (line[columns["label"]] or "").strip()
                label = _LABELS.get(text, label_of(text, task))
                if label is None:
                    raise DataError(
                        f"{table.name}: expected {negative} or {positive}, 0 or 1, in row {row}; found {text!r}."
                    )
                yield (line[columns["file"]] or "").strip().replace("\\", "/").removeprefix("./"), label
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise DataError(f"{table.name} cannot be read as a table in UTF-8: {reason}.") from exc


def _has_class_folders(paths: Sequence[str], task: Task) -> bool:
    return any(findings_of(folder, task) for path in paths for folder in path.split("/")[:-1])


def _may_be_image(path: str) -> bool:
    *folders, name = path.split("/")
    return not (is_hidden((*folders, name)) or is_document(name) or any(map(is_mask_folder, folders)))
