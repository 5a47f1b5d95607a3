"""Where the images of a data set lie: a folder, a zip, arrays in an .npz, an S3 prefix, or nowhere yet (phantoms).

A source lists the paths that it holds and reads one of them. Nothing is ever extracted to disk.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lungline.datasets.dataset import CLASSES, SPLITS, Example
from lungline.errors import DataError, LunglineError, ObjectTooLarge, Unavailable
from lungline.imaging.png import write_png
from lungline.storage.s3 import Storage


class Source(Protocol):
    """Files by path; paths use `/` and are relative to the source."""

    def paths(self) -> Sequence[str]:
        """All files. Raises DataError when the source cannot be listed."""
        ...

    def read(self, path: str) -> bytes:
        """One file. Raises DataError when it cannot be read, or is larger than the source's limit."""
        ...


class FolderSource:
    """A folder on disk, with all folders below it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def paths(self) -> Sequence[str]:
        """All files, in the order of their paths; links to folders are followed, each real folder once."""
        found: list[str] = []
        seen: set[str] = set()
        for where, folders, files in os.walk(self._folder, onerror=_raise_unlistable, followlinks=True):
            seen.add(os.path.realpath(where))
            folders[:] = [name for name in folders if os.path.realpath(Path(where) / name) not in seen]
            found += (os.path.relpath(Path(where) / file, self._folder) for file in files)
        return sorted(path.replace(os.sep, "/") for path in found)

    def read(self, path: str) -> bytes:
        """One file."""
        try:
            with (self._folder / path).open("rb") as file:
                return _bounded(file.read, path, self._max_bytes)
        except OSError as exc:
            raise DataError(f"{path} cannot be read: {exc.strerror or exc}.") from exc


def _raise_unlistable(error: OSError) -> None:
    raise DataError(f"Folder {error.filename} cannot be listed: {error.strerror}.") from error


class ZipSource:
    """A zip file; its members are read one by one and never extracted, so their paths can do no harm."""

    def __init__(self, file: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        try:
            self._zip = zipfile.ZipFile(file)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
            raise DataError(
                f"Expected a folder, a zip or an .npz; found {file}, which cannot be read as one: {exc}."
            ) from exc
        self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def paths(self) -> Sequence[str]:
        """All files, in the order of their paths."""
        return sorted(self._members)

    def read(self, path: str) -> bytes:
        """One file; what a member claims as its size is not trusted."""
        try:
            with self._zip.open(self._members[path]) as file:
                return _bounded(file.read, path, self._max_bytes)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as exc:
            raise DataError(f"{path} cannot be read from the zip: {exc}.") from exc


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
        """One object."""
        try:
            return self._storage.get(self._bucket, self._prefix + path, max_bytes=self._max_bytes).data
        except Unavailable:
            raise  # nothing is wrong with the data: the same call may succeed later
        except ObjectTooLarge as exc:
            raise _too_large(path, self._max_bytes) from exc
        except LunglineError as exc:
            raise DataError(f"{path} cannot be read from bucket {self._bucket}: {exc}") from exc


def _bounded(read: Callable[[int], bytes], path: str, max_bytes: int) -> bytes:
    data = read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def _too_large(path: str, max_bytes: int) -> DataError:
    return DataError(f"{path} has more than {max_bytes:,} bytes, the limit for one image.")


# PneumoniaMNIST at 224 px has 0.3 GB; a header that claims more than this is an attack or another data set.
_MOST_BYTES = 4 * 2**30


class ArraySource:
    """The images of an .npz, all in memory, read as PNG files so that they pass the same decoder as any upload."""

    def __init__(self, file: Path) -> None:
        self._images: dict[str, npt.NDArray[np.uint8]] = {}
        self._labels: dict[str, npt.NDArray[Any]] = {}
        try:
            with zipfile.ZipFile(file) as archive:
                for split in SPLITS:
                    if f"{split}_images.npy" in archive.namelist():
                        self._images[split] = _load(archive, f"{split}_images")
                        self._labels[split] = _load(archive, f"{split}_labels")
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as exc:
            raise DataError(f"{file} cannot be read as an .npz: {exc}.") from exc
        if not self._images:
            raise DataError(f"{file}: expected arrays {{train,val,test}}_{{images,labels}}; found none of them.")
        for split in self._images:
            self._check(split)

    def examples(self) -> list[Example]:
        """All images; their names count them within the split."""
        return [
            Example.named(f"{split}/{CLASSES[int(label)]}/{at:05d}.png", split, int(label))
            for split, labels in self._labels.items()
            for at, label in enumerate(labels.reshape(-1))
        ]

    def read(self, example: Example) -> bytes:
        """One image as a PNG file."""
        split, _, file = example.name.split("/")
        return write_png(self._images[split][int(file.removesuffix(".png"))], stored=True)

    def _check(self, split: str) -> None:
        images, labels = self._images[split], self._labels[split]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise DataError(
                f"{split}_images: expected uint8 of shape (N, H, W) or (N, H, W, 3); "
                f"found {images.dtype} of shape {images.shape}."
            )
        if labels.dtype.kind not in "iu" or labels.size != len(images) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"{split}_labels: expected {len(images)} integers 0 ({CLASSES[0]}) or 1 ({CLASSES[1]}); "
                f"found {labels.dtype} of shape {labels.shape}."
            )


def _load(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of the archive; read without numpy's own loader, which trusts the size that the header claims."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has array format {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size > _MOST_BYTES:
            raise ValueError(f"{name} holds {dtype} of shape {shape}")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} holds another number of bytes than its shape {shape} needs")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
