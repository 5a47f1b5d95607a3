"""The folder layout of a labelled data set: `[anything/]{train,val,test}/{NORMAL,EFFUSION}/*`, as the task names them.

Read as well: splits inside of the class folders (`NORMAL/train`), folders between and below them, other spellings
(`Training`, `valid`, `1_effusion`). Left out with a remark: other classes, masks, tables and texts. Skipped:
hidden files and litter. A layout that can be read in two ways is refused.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lungline.datasets.class_folders import ClassFolders, File, Folders, Place
from lungline.datasets.dataset import Example
from lungline.datasets.folder_names import (
    findings_of,
    is_archive,
    is_document,
    is_hidden,
    is_mask_folder,
    is_table,
    masked_stem,
    split_of,
    stem,
)
from lungline.errors import DataError
from lungline.task.reading import default_task
from lungline.task.task import Task

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """The examples in a list of paths, and the path of each by its name.

    `left_out` are the paths of other files; `remarks` say in words what was left out or read in another spelling.
    `whole` is true when no image is in a split's folder.
    """

    examples: tuple[Example, ...]
    paths: dict[str, str]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]
    whole: bool = False


def expected(task: Task) -> str:
    """The layout that a task's data sets have."""
    return f"[anything/]{{train,val,test}}/{{{','.join(task.names)}}}/"


def find_layout(paths: Sequence[str], *, only_split: str | None = None, task: Task | None = None) -> Layout:
    """The layout in `paths`; when it is nested in itself, as in the public zip, the outermost.

    `only_split` is the split of images in class folders, where no image is in a split's folder.
    Raises DataError when there is no layout, or when it can be read in two ways.
    """
    task = task or default_task()
    files = [file for file in map(File, paths) if not is_hidden(file.parts)]
    tree = ClassFolders(files, task)
    placed = [place for file in files if (place := tree.place(file))]
    if whole := not placed and only_split is not None:
        placed = [place for file in files if (place := tree.place(file, only_split))]
    if not placed:
        raise DataError(f"Expected images in {expected(task)}; found {_describe(files, task)}.")
    root = _outermost(placed)
    inside = [place for place in placed if place.root == root]
    masks = _masks(inside)
    images = [place for place in inside if place.file not in masks and not is_document(place.file.name)]
    by_name = _by_name(images)
    nested = [place for place in placed if place.root != root and not any(map(is_mask_folder, place.root))]
    there = {place.file.parts[len(root) :] for place in inside}
    copies = {place.file for place in nested if place.file.parts[len(place.root) :] in there}
    taken = copies.union(place.file for place in images)
    left_out = [file for file in files if file not in taken]
    remarks = (*_spellings(images, task), *_left_out(left_out, masks, root, tree))
    examples, outside = tuple(place.example for place in images), tuple(file.shown for file in left_out)
    return Layout(examples, by_name, outside, remarks, whole)


def _by_name(images: Sequence[Place]) -> dict[str, str]:
    places: dict[str, File] = {}
    for place in images:
        other = places.setdefault(place.example.name, place.file)
        if other != place.file:
            raise DataError(
                f"Expected one folder for each split and class; found both {other.shown} and {place.file.shown}."
            )
    return {name: file.path for name, file in places.items()}


def _masks(places: Sequence[Place]) -> set[File]:
    """Files in folders of masks, and files such as `scan_mask.png` beside `scan.png`."""
    stems = {(place.file.folders, stem(place.file.name)) for place in places}
    named = {place.file: masked for place in places if (masked := masked_stem(place.file.name))}
    masks = {place.file for place in places if place.is_mask}
    # A name alone proves nothing, unless some of these files are beside their image.
    return masks.union(named) if any((file.folders, masked) in stems for file, masked in named.items()) else masks


def _outermost(placed: Sequence[Place]) -> Folders:
    roots = sorted({place.root for place in placed}, key=lambda root: (len(root), root))
    # Of `images/train/NORMAL` and `masks/train/NORMAL`, the first is the data set.
    roots = [root for root in roots if not any(map(is_mask_folder, root))] or roots
    beside = [root for root in roots if root[: len(roots[0])] != roots[0]]
    if beside:
        names = " and ".join("/".join(root) or "the top folder" for root in (roots[0], beside[0]))
        raise DataError(f"Expected one data set; found {len(beside) + 1} side by side, in {names}.")
    return roots[0]


def _spellings(images: Sequence[Place], task: Task) -> Iterator[str]:
    for label in sorted({place.example.label for place in images}):
        title = task.called(label)
        folders = {place.folder for place in images if place.example.label == label}
        other = sorted(folder for folder in folders if folder.strip().upper() != title)
        if other:
            yield f"read {_listed(other)} as {title}"


def _left_out(files: Sequence[File], masks: set[File], root: Folders, tree: ClassFolders) -> Iterator[str]:
    """Remarks about files that were left out: first other classes, then masks, then everything else."""
    why = {
        "class": _none_of(tree.task.names),
        "undecided": "the folder fits several findings, and no file name says which",
        "unsplit": "outside of the splits of this data set",
    }
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*why, "masks")}
    rest: list[str] = []
    for file in files:
        folders = file.folders[len(root) :] if file.folders[: len(root)] == root else file.folders
        top = next((folder for folder in folders if not split_of(folder)), None)
        if file in masks or any(map(is_mask_folder, folders)):
            counts["masks"]["/".join(folders)] += 1
        elif top is None or is_document(file.name):
            rest.append(file.shown)
        elif any(findings_of(folder, tree.task) for folder in folders):
            counts["undecided" if tree.is_undecided(file) else "unsplit"]["/".join(folders)] += 1
        else:
            counts["class"][top] += 1
    for name, reason in why.items():
        if counts[name]:
            yield f"left out {_counted(counts[name])}: {reason}"
    if counts["masks"]:
        yield f"left out masks: {_counted(counts['masks'])}"
    if rest:
        yield f"left out {_files(len(rest))} of another kind, such as {rest[0]}"


def _none_of(names: Sequence[str]) -> str:
    return f"neither {names[0]} nor {names[1]}" if len(names) == 2 else f"none of {_listed(names)}"


def _describe(files: Sequence[File], task: Task) -> str:
    """What is there instead of a layout, and what to do about it."""
    if not files:
        return "no files"
    folders = sorted({"/".join(file.folders) or "." for file in files})
    more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
    description = f"{_files(len(files))} in {', '.join(folders[:3])}{more}"
    if beside := _beside_classes(files, task):
        classes = [folder for folder in beside if findings_of(folder, task)]
        others = [folder for folder in beside if folder not in classes]
        neither = (
            f", and of {'neither' if len(task.findings) == 2 else 'no'} class are {_listed(others)}" if others else ""
        )
        return f"{description}: without folders for train and test are {_listed(classes)}{neither}"
    if archive := next((file for file in files if is_archive(file.name)), None):
        return f"{description}: unpack {archive.shown} first"
    if table := next((file for file in files if is_table(file.name)), None):
        what_to_do = "name its columns in the task file, or sort the images into class folders"
        return f"{description}: the table {table.shown} names no images, or no finding of the task; {what_to_do}"
    return description


def _beside_classes(files: Sequence[File], task: Task) -> list[str]:
    """The class folders without a split, and the folders beside them."""
    for file in files:
        for at, folder in enumerate(file.folders):
            if findings_of(folder, task):
                top = file.folders[:at]
                return sorted(
                    {other.folders[at] for other in files if len(other.folders) > at and other.folders[:at] == top}
                )
    return []


def _counted(counts: Counter[str]) -> str:
    return _listed([f"{name} ({_files(count)})" for name, count in sorted(counts.items())])


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:_SHOWN], *([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
