"""Where a file of a data set belongs: the class and split that the folders around it name."""

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lungline.datasets.dataset import CLASSES, Example, Kind, kind_of, patient_of, printable
from lungline.datasets.folder_names import cause_of, is_mask_folder, label_of, split_of
from lungline.errors import DataError

Folders = tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A path as its source has it, and its parts in a form that can be shown; a backslash separates as `/` does."""

    path: str

    @cached_property
    def parts(self) -> Folders:
        """The parts without `.`, and without `..` where it leads back to a folder before it."""
        clean = posixpath.normpath(self.path.replace("\\", "/").lstrip("/"))
        return tuple(printable(part) for part in clean.split("/"))

    @property
    def folders(self) -> Folders:
        """The folders around the file, the outermost first."""
        return self.parts[:-1]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.parts[-1]

    @property
    def shown(self) -> str:
        """The path in a form that can be shown."""
        return "/".join(self.parts)


@dataclass(frozen=True)
class Place:
    """Where a file belongs. `root` are the folders around the data set, `folder` is the name of the class folder."""

    file: File
    root: Folders
    folder: str
    example: Example

    @property
    def is_mask(self) -> bool:
        """Whether the file is in a folder of masks inside of the data set."""
        return any(is_mask_folder(folder) for folder in self.file.folders[len(self.root) :])


class ClassFolders:
    """The class folders of a data set.

    A folder with the name of a class and with folders of both classes below is no class folder: `pneumonia` in
    `pneumonia/train/NORMAL`.
    """

    def __init__(self, files: Iterable[File]) -> None:
        self._below: dict[Folders, set[int]] = defaultdict(set)
        for file in files:
            labels = _labels(file.folders)
            for at in labels:
                self._below[file.folders[: at + 1]] |= {label for other, label in labels.items() if other > at}

    def place(self, file: File, only_split: str | None = None) -> Place | None:
        """The place of a file, or None when it is in no class folder, or in no split and there is no `only_split`.

        Raises DataError when the file is in two classes or in two splits.
        """
        folders = file.folders
        labels = {at: label for at, label in _labels(folders).items() if self._below[folders[: at + 1]] != {0, 1}}
        if not labels:
            return None
        splits = {at: split for at, name in enumerate(folders) if (split := split_of(name))}
        at = next((at for at in labels if any(other < at for other in splits)), min(labels))
        above = max((other for other in splits if other < at), default=None)
        _refuse_two(file, "class", [CLASSES[label] for label in labels.values()])
        inner = [split for other, split in splits.items() if other > at or other == above]
        _refuse_two(file, "split", inner)
        split = inner[0] if inner else only_split
        if split is None:
            return None
        return _placed(file, at if above is None else above, at, labels[at], split)


def _labels(folders: Folders) -> dict[int, int]:
    return {at: label for at, name in enumerate(folders) if (label := label_of(name)) is not None}


def _refuse_two(file: File, what: str, names: list[str]) -> None:
    if len(set(names)) > 1:
        raise DataError(f"Expected one {what} for each image; {file.shown} is in {' and '.join(dict.fromkeys(names))}.")


def _placed(file: File, top: int, at: int, label: int, split: str) -> Place:
    """The place of a file. Of its folders, number `top` is the data set's first and number `at` names the class."""
    folder = file.folders[at]
    spelling = [] if folder.upper() == CLASSES[label] else [folder]
    # Where the class folder is outermost, the split's folder is below it.
    inside = [
        name
        for other, name in enumerate(file.folders)
        if other > top and other != at and not (top == at and split_of(name))
    ]
    name = "/".join((split, CLASSES[label], *spelling, *inside, file.name))
    kind = kind_of(name, label)
    causes: list[Kind] = [cause for part in (folder, *inside) if (cause := cause_of(part))]
    if kind == "unknown" and causes:
        kind = causes[0]
    return Place(file, file.folders[:top], folder, Example(name, split, label, patient_of(name), kind))
