"""Where the images of a data set are stored: a folder, arrays in an .npz, or an S3 prefix (zips: archives.py).

A source lists the paths of its files and reads one of them. Nothing is ever extracted to disk.
"""

import math
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lungline.datasets.dataset import SPLITS, Example, printable
from lungline.datasets.folder_names import is_hidden
from lungline.errors import DataError, LunglineError, ObjectTooLarge, Unavailable
from lungline.imaging.png import write_png
from lungline.storage.s3 import Storage
from lungline.task.reading import default_task
from lungline.task.task import Task


class Source(Protocol):
    """Files by path; paths use `/` and are relative to the source."""

    def paths(self) -> Sequence[str]:
        """All files. Raises DataError when the source cannot be listed."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of one file. Raises DataError when it cannot be read, or is larger than the source's limit."""
        ...


class FolderSource:
    """A folder on disk, with all folders below it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def paths(self) -> Sequence[str]:
        """All files in visible folders, in the order of their paths. Links are followed; each folder is listed once."""
        paths: list[str] = []
        listed: set[str] = set()
        for folder, subfolders, files in os.walk(self._folder, onerror=_raise_unlistable, followlinks=True):
            listed.add(os.path.realpath(folder))
            # Litter such as lost+found may not be listed by everyone.
            visible = [name for name in subfolders if not is_hidden((name,))]
            subfolders[:] = [name for name in visible if os.path.realpath(Path(folder) / name) not in listed]
            paths += (os.path.relpath(Path(folder) / file, self._folder) for file in files)
        return sorted(path.replace(os.sep, "/") for path in paths)

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        try:
            # Opening a named pipe would wait for its writer for ever.
            if not stat.S_ISREG((self._folder / path).stat().st_mode):
                raise DataError(f"{printable(path)} cannot be read: it is not a regular file.")
            with (self._folder / path).open("rb") as file:
                return read_bounded(file.read, path, self._max_bytes)
        except OSError as exc:
            raise DataError(f"{printable(path)} cannot be read: {exc.strerror or exc}.") from exc


def _raise_unlistable(error: OSError) -> None:
    raise DataError(f"Folder {printable(str(error.filename))} cannot be listed: {error.strerror}.") from error


class S3Source:
    """All objects below a prefix of an S3 bucket."""

    def __init__(self, storage: Storage, bucket: str, prefix: str, max_bytes: int) -> None:
        self._storage = storage
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._max_bytes = max_bytes

    def paths(self) -> Sequence[str]:
        """All objects below the prefix."""
        keys = [info.key for info in self._storage.list(self._bucket, self._prefix)]
        return [key[len(self._prefix) :] for key in keys if not key.endswith("/")]

    def read(self, path: str) -> bytes:
        """The bytes of one object."""
        try:
            return self._storage.get(self._bucket, self._prefix + path, max_bytes=self._max_bytes).data
        except Unavailable:
            raise  # the data are fine: the same call may succeed later
        except ObjectTooLarge as exc:
            raise _too_large(path, self._max_bytes) from exc
        except LunglineError as exc:
            raise DataError(f"{path} cannot be read from bucket {self._bucket}: {exc}") from exc


def read_bounded(read: Callable[[int], bytes], path: str, max_bytes: int) -> bytes:
    """What `read` gives, called with a number of bytes. Raises DataError when there are more than `max_bytes`."""
    data = read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def _too_large(path: str, max_bytes: int) -> DataError:
    return DataError(f"{printable(path)} has more than {max_bytes:,} bytes, the limit for one image.")


# A set of MedMNIST at 224 px has 0.3 GB; a header that claims more than this is damaged or hostile.
_MOST_BYTES = 4 * 2**30
_NAMES_SHOWN = 6


class ArraySource:
    """The images of an .npz, all in memory; they are read as PNG files and so pass the decoder like any upload."""

    def __init__(self, file: Path, task: Task | None = None) -> None:
        self._task = task or default_task()
        self._images: dict[str, npt.NDArray[np.uint8]] = {}
        self._labels: dict[str, npt.NDArray[Any]] = {}
        try:
            with zipfile.ZipFile(file) as archive:
                for split in SPLITS:
                    if f"{split}_images.npy" in archive.namelist():
                        self._images[split] = _load(archive, f"{split}_images")
                        self._labels[split] = _load(archive, f"{split}_labels")
                names = [name.removesuffix(".npy") for name in archive.namelist()]
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as exc:
            raise DataError(f"{printable(str(file))} cannot be read as an .npz: {exc}.") from exc
        if not self._images:
            raise DataError(
                f"{printable(str(file))}: expected arrays {{train,val,test}}_{{images,labels}}; "
                f"found {printable(', '.join(names[:_NAMES_SHOWN]))}{' ...' if len(names) > _NAMES_SHOWN else ''}."
            )
        for split in self._images:
            self._check(split)

    def examples(self) -> list[Example]:
        """All images; each name has the image's number within its split."""
        return [
            Example.named(f"{split}/{self._task.called(label)}/{at:05d}.png", split, label, self._task)
            for split, labels in self._labels.items()
            for at, label in enumerate(map(self._label, labels))
        ]

    def read(self, example: Example) -> bytes:
        """The bytes of one image, as a PNG file."""
        split, _, file = example.name.split("/")
        return write_png(self._images[split][int(file.removesuffix(".png"))], stored=True)

    def _label(self, numbers: npt.NDArray[Any]) -> int:
        """The label of an image from its numbers: that of its finding, or 0 and 1 for each that may be there."""
        task, values = self._task, numbers.reshape(-1).tolist()
        if task.kind == "many-at-once":
            places = [at for at in range(1, len(task.findings)) if values[task.number_of(at)]]
        else:
            places = [at for at in range(len(task.findings)) if task.number_of(at) == values[0]]
        return task.label_for(frozenset(places))

    def _check(self, split: str) -> None:
        images, labels = self._images[split], self._labels[split]
        colour = images.ndim == 4 and images.shape[3] == 3
        if images.dtype != np.uint8 or not (images.ndim == 3 or colour) or 0 in images.shape[1:]:
            raise DataError(
                f"{split}_images: expected uint8 of shape (N, H, W) or (N, H, W, 3); "
                f"found {images.dtype} of shape {images.shape}."
            )
        self._check_labels(split, labels, len(images))

    def _check_labels(self, split: str, labels: npt.NDArray[Any], count: int) -> None:
        task = self._task
        if task.kind == "many-at-once":
            columns = 1 + max(task.number_of(at) for at in range(1, len(task.findings)))
            numbers, expected = (
                [0, 1],
                f"{split}_labels: expected {count} rows of {columns} numbers or more, each 0 or 1",
            )
            fits = labels.ndim == 2 and len(labels) == count and labels.shape[1] >= columns
        else:
            numbers = [task.number_of(at) for at in range(len(task.findings))]
            named = [f"{number} ({name})" for number, name in zip(numbers, task.names, strict=True)]
            expected = f"{split}_labels: expected {count} integers {', '.join(named[:-1])} or {named[-1]}"
            fits = labels.shape in {(count,), (count, 1)}
        if labels.dtype.kind not in "biu" or not fits:
            raise DataError(f"{expected}; found {labels.dtype} of shape {labels.shape}.")
        if not np.isin(labels, numbers).all():
            raise DataError(f"{expected}; found {labels.min()} to {labels.max()}.")


def _load(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of the archive. NumPy's own loader is not used, because it trusts the size in the header."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has array format {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about headers that Python 2 wrote
                shape, columns_first, dtype = header(file)
        except Exception as exc:  # NumPy passes on whatever Python's own parser raises
            raise ValueError(f"{name} has a damaged header: {exc}") from exc
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size > _MOST_BYTES:
            raise ValueError(f"{name} holds {dtype} of shape {shape}")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} does not have the {size:,} bytes of its shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
