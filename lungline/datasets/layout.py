"""The folder layout of a labelled data set: `[anything/]{train,val,test}/{NORMAL,PNEUMONIA}/*`.

Case does not matter, `valid` and `validation` mean `val`, and hidden files and litter are skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lungline.datasets.dataset import CLASSES, SPLITS, Example
from lungline.errors import DataError
from lungline.litter import is_litter

EXPECTED = "[anything/]{train,val,test}/{NORMAL,PNEUMONIA}/"

_SPLIT_NAMES = {split: split for split in SPLITS} | {"valid": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The examples that a list of paths holds, the path of each by its name, and the paths that fit nowhere."""

    examples: tuple[Example, ...]
    paths: dict[str, str]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    root: tuple[str, ...]
    path: str
    example: Example


def find_layout(paths: Sequence[str], *, only_split: str | None = None) -> Layout:
    """The layout in `paths`; when it is nested in itself, as in the public zip, the outermost.

    `only_split` is the split of images that lie in class folders without a split's folder.
    Raises DataError when there is no layout, or two side by side.
    """
    clean = [path for path in paths if not _is_litter(path)]
    found = [place for path in clean if (place := _place(path, None))]
    if not found and only_split:
        found = [place for path in clean if (place := _place(path, only_split))]
    if not found:
        raise DataError(f"Expected images in {EXPECTED}; found {_seen(clean)}.")
    root = _outermost({place.root for place in found})
    chosen = {place.path: place.example for place in found if place.root == root}
    by_name: dict[str, str] = {}
    for path, example in chosen.items():
        if (other := by_name.setdefault(example.name, path)) != path:
            raise DataError(f"Expected one folder for each split and class; found both {other} and {path}.")
    known = {place.path for place in found}
    return Layout(tuple(chosen.values()), by_name, tuple(path for path in clean if path not in known))


def _is_litter(path: str) -> bool:
    return is_litter(path) or any(part.startswith(".") for part in path.split("/"))


def _place(path: str, only_split: str | None) -> _Place | None:
    """Where the layout puts a path; without `only_split` the class's folder must lie in a split's folder."""
    *folders, file = path.split("/")
    for at, folder in enumerate(folders):
        if folder.upper() not in CLASSES:
            continue
        split = only_split or _SPLIT_NAMES.get(folders[at - 1].lower() if at else "")
        if split:
            name = "/".join((split, folder.upper(), *folders[at + 1 :], file))
            root = folders[: at if only_split else at - 1]
            return _Place(tuple(root), path, Example.named(name, split, CLASSES.index(folder.upper())))
    return None


def _outermost(roots: set[tuple[str, ...]]) -> tuple[str, ...]:
    depth = min(len(root) for root in roots)
    outer = sorted(root for root in roots if len(root) == depth)
    if len(outer) > 1:
        names = " and ".join("/".join(root) for root in outer[:2])
        raise DataError(f"Expected one data set; found {len(outer)} side by side, in {names}.")
    return outer[0]


def _seen(paths: Sequence[str]) -> str:
    if not paths:
        return "no files"
    folders = sorted({path.rpartition("/")[0] or "." for path in paths})
    more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
    return f"{len(paths)} files in {', '.join(folders[:3])}{more}"
