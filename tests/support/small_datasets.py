"""Small data sets for tests: images, folders, zips and arrays."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lungline.datasets.dataset import SPLITS, Dataset, Example
from lungline.datasets.opening import open_dataset
from lungline.settings import Settings
from lungline.task.reading import default_task

SETTINGS = Settings(offline=True)


def image(seed: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def small_set(splits: tuple[str, ...] = SPLITS, each: int = 2) -> dict[str, bytes]:
    """Files of a small data set by path."""
    names = [(split, name, at) for split in splits for name in default_task().names for at in range(each)]
    return {f"{split}/{name}/person{seed}_virus_{at}.png": image(seed) for seed, (split, name, at) in enumerate(names)}


def folder_of(folder: Path, files: dict[str, bytes], root: str = "") -> Path:
    for path, data in files.items():
        file = folder / root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def zip_of(file: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file


def opened(spec: Path | str, **arguments: Any) -> Dataset:
    return open_dataset(str(spec), settings=SETTINGS, **arguments)


def named(dataset: Dataset, name: str) -> Example:
    return next(example for example in dataset.examples if example.name == name)


def names(dataset: Dataset) -> set[str]:
    return {example.name for example in dataset.examples}


def arrays(count: int = 3, size: int = 28, splits: tuple[str, ...] = SPLITS) -> dict[str, np.ndarray]:
    """The arrays of a small MedMNIST file."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for split in splits:
        made[f"{split}_images"] = rng.integers(0, 256, (2 * count, size, size)).astype(np.uint8)
        made[f"{split}_labels"] = np.tile([[0], [1]], (count, 1)).astype(np.uint8)
    return made


def npz(file: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(file, **content)  # pyright: ignore[reportArgumentType] - its stub takes names for options
    return file
