"""Where a file of a data set belongs: the class and split that the folders around it name."""

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lungline.datasets.dataset import Example, patient_of, printable
from lungline.datasets.folder_names import findings_of, is_mask_folder, split_of
from lungline.errors import DataError
from lungline.task.task import Task

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

    A folder with the name of a class and with folders of different classes below is no class folder: `fracture` in
    `fracture/train/NORMAL` and `fracture/train/FRACTURE`.
    """

    def __init__(self, files: Iterable[File], task: Task) -> None:
        self.task = task
        self._below: dict[Folders, set[frozenset[int]]] = defaultdict(set)
        for file in files:
            named = self._named(file.folders)
            for at in named:
                self._below[file.folders[: at + 1]] |= {places for other, places in named.items() if other > at}

    def place(self, file: File, only_split: str | None = None) -> Place | None:
        """The place of a file, or None when it is in no class folder, or in no split and there is no `only_split`.

        None also where its folder fits several classes, and its name does not say which. Raises DataError when the file
        is in two classes or in two splits.
        """
        folders = file.folders
        named = self._class_folders(folders)
        if not named:
            return None
        splits = {at: split for at, name in enumerate(folders) if (split := split_of(name))}
        at = next((at for at in named if any(other < at for other in splits)), min(named))
        above = max((other for other in splits if other < at), default=None)
        fitting = _in_all(named.values())
        if not fitting:
            _refuse_two(file, "class", [self.task.names[min(places)] for places in named.values()])
        label = self._label(file, fitting)
        if label is None:
            return None
        inner = [split for other, split in splits.items() if other > at or other == above]
        _refuse_two(file, "split", inner)
        split = inner[0] if inner else only_split
        if split is None:
            return None
        return _placed(file, at if above is None else above, at, label, split, self.task)

    def is_undecided(self, file: File) -> bool:
        """Whether a file's folder fits several classes, and its name does not say which."""
        named = self._class_folders(file.folders)
        fitting = _in_all(named.values())
        return bool(fitting) and self._label(file, fitting) is None

    def _class_folders(self, folders: Folders) -> dict[int, frozenset[int]]:
        """The places of the findings that each class folder fits, by the folder's number."""
        return {at: places for at, places in self._named(folders).items() if len(self._below[folders[: at + 1]]) < 2}

    def _named(self, folders: Folders) -> dict[int, frozenset[int]]:
        return {at: places for at, name in enumerate(folders) if (places := findings_of(name, self.task))}

    def _label(self, file: File, fitting: frozenset[int]) -> int | None:
        """The label of a file whose folder fits these findings; its name decides where they are several."""
        if len(fitting) > 1:
            name = file.name.lower()
            fitting = frozenset(
                at for at in fitting if any(part.lower() in name for part in self.task.findings[at].files)
            )
        return self.task.label_for(fitting) if len(fitting) == 1 else None


def _in_all(fitting: Iterable[frozenset[int]]) -> frozenset[int]:
    """The places that are in all of these; none of nothing."""
    first, *others = [*fitting] or [frozenset[int]()]
    return first.intersection(*others)


def _refuse_two(file: File, what: str, names: list[str]) -> None:
    if len(set(names)) > 1:
        raise DataError(f"Expected one {what} for each image; {file.shown} is in {' and '.join(dict.fromkeys(names))}.")


def _placed(file: File, top: int, at: int, label: int, split: str, task: Task) -> Place:  # noqa: PLR0917 - all of them place it
    """The place of a file. Of its folders, number `top` is the data set's first and number `at` names the class."""
    folder, called = file.folders[at], task.called(label)
    spelling = [] if folder.upper() == called else [folder]
    # Where the class folder is outermost, the split's folder is below it.
    inside = [
        name
        for other, name in enumerate(file.folders)
        if other > top and other != at and not (top == at and split_of(name))
    ]
    name = "/".join((split, called, *spelling, *inside, file.name))
    kind = task.kind_of(label, name, (folder, *inside))
    return Place(file, file.folders[:top], folder, Example(name, split, label, patient_of(name), kind))
