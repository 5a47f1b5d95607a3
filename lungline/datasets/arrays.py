"""Images in the arrays of an .npz file, in the form of MedMNIST: `{train,val,test}_{images,labels}`."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lungline.datasets.examples import CLASSES, SPLITS, Example
from lungline.errors import DataError
from lungline.imaging.png import write_png

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
