"""What the names of folders and files in a data set mean: classes, splits, masks, documents."""

import re
from functools import lru_cache

from lungline.litter import is_litter
from lungline.task.finding import words_of
from lungline.task.task import Task

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FILLERS = {"data", "dataset", "images", "set", "split"}
_MASKS = {
    *("mask", "masks", "segmentation", "segmentations", "annotation", "annotations"),
    *("heatmap", "heatmaps", "contour", "contours", "overlay", "overlays"),
}
_MASK_FILE = re.compile(r"(.+?)[ ._-]+(?:lung[ _-]?)?(?:mask|seg|segmentation|label)s?", re.IGNORECASE)
_TABLES = {"csv", "tsv", "xls", "xlsx", "parquet"}
_ARCHIVES = {"zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar"}
_TEXTS = {"txt", "md", "rst", "html", "htm", "pdf", "doc", "docx", "rtf", "json", "jsonl", "xml", "yaml", "yml", "toml"}
_PROGRAMS = {"ini", "cfg", "log", "py", "ipynb", "sh", "bat", "r", "m", "exe", "url", "lnk", "md5", "sha256", "db"}
_ARRAYS = {"h5", "hdf5", "pkl", "npy", "npz", "mat", "sqlite"}
_DOCUMENTS = _TABLES | _ARCHIVES | _TEXTS | _PROGRAMS | _ARRAYS


@lru_cache(maxsize=4096)
def findings_of(folder: str, task: Task) -> frozenset[int]:
    """The places of the findings that a folder's name fits: Nodule, 1_nodule, or with the word of a kind beside."""
    words = words_of(folder)
    return frozenset(at for at, finding in enumerate(task.findings) if finding.is_named_by(words))


def label_of(folder: str, task: Task) -> int | None:
    """The label that a folder's name gives to its images, where it fits one finding."""
    fitting = findings_of(folder, task)
    return task.label_for(fitting) if len(fitting) == 1 else None


@lru_cache(maxsize=4096)
def split_of(folder: str) -> str | None:
    """The split that a folder's name means: train, Training, valid, test_set ..."""
    words = words_of(folder) - _FILLERS
    return _SPLITS.get(*words) if len(words) == 1 else None


@lru_cache(maxsize=4096)
def is_mask_folder(folder: str) -> bool:
    """Whether a folder holds masks or other drawings about images, not X-rays."""
    return bool(words_of(folder) & _MASKS)


def masked_stem(file: str) -> str | None:
    """The name, without extension, of the image that a file such as `scan_mask.png` is the mask of."""
    match = _MASK_FILE.fullmatch(stem(file))
    return match.group(1) if match else None


def stem(file: str) -> str:
    """A file's name without its last extension."""
    return file.rpartition(".")[0] or file


def is_document(file: str) -> bool:
    """Whether a file is a table, a text or an archive by its name, and so no X-ray."""
    return _extension(file) in _DOCUMENTS or file.upper() == "DICOMDIR"


def is_table(file: str) -> bool:
    """Whether a file is a table by its name."""
    return _extension(file) in _TABLES


def is_archive(file: str) -> bool:
    """Whether a file is an archive by its name."""
    return _extension(file) in _ARCHIVES


def is_hidden(parts: tuple[str, ...]) -> bool:
    """Whether a path is hidden or litter of an operating system."""
    return any(part.startswith(".") and part != ".." for part in parts) or is_litter("/".join(parts))


def _extension(file: str) -> str:
    return file.rpartition(".")[2].lower() if "." in file else ""
