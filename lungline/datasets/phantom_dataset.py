"""A data set of phantoms: as many as wanted, always the same, by patients who do not exist."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungline.datasets import phantom, phantom_anatomy
from lungline.datasets.dataset import CLASSES, Dataset, Example, Kind
from lungline.datasets.phantom import PATTERNS, jpeg
from lungline.datasets.phantom_anatomy import Patient
from lungline.errors import DataError

PHANTOMS = 1200
NOTICE = "Phantoms are drawn, not photographed: what a model learns from them says nothing about patients."

_SHARES = {"val": 0.1, "test": 0.2}
_FEWEST = 20
_MOST = 1_000_000
_KINDS: dict[str, Kind] = {"clear": "normal", "lobar": "bacterial", "patchy": "viral", "perihilar": "viral"}


def open_phantoms(count: str) -> Dataset:
    """A data set of that many phantoms, half of them with opacities, patients kept within a split.

    Each is drawn when it is read. Raises DataError for a number that makes no data set.
    """
    if not count.isdecimal() or not _FEWEST <= int(count) <= _MOST:
        raise DataError(f"Expected phantom:N with N from {_FEWEST} to {_MOST:,}; found {count!r}.")
    sizes = {split: round(int(count) * share) for split, share in _SHARES.items()}
    sizes = {"train": int(count) - sum(sizes.values())} | sizes
    examples = tuple(example for split, size in sizes.items() for example in _examples(split, size))
    return Dataset(f"phantom:{count}", examples, _read, synthetic=True, notice=NOTICE, recipe=f"{count} {_artist()}")


def _artist() -> str:
    """A digest of the code that draws: other code, other pictures."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (phantom_anatomy, phantom, sys.modules[__name__]))
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def _examples(split: str, size: int) -> Iterator[Example]:
    """Examples of one split: each class has half, each patient one to three pictures of one class."""
    for label, share in ((0, size // 2), (1, size - size // 2)):
        done = patient = 0
        while done < share:
            name = f"{split}-{'np'[label]}{patient:05d}"
            seed = _seed(name)
            pictures = min(1 + seed % 3, share - done)
            pattern = PATTERNS[seed // 3 % len(PATTERNS)] if label else "clear"
            for picture in range(1, pictures + 1):
                file = f"{split}/{CLASSES[label]}/{name}_{pattern}_{picture}.jpeg"
                yield Example(file, split, label, name, _KINDS[pattern])
            done += pictures
            patient += 1


def _read(example: Example) -> bytes:
    pattern = example.name.split("_")[-2]
    return jpeg(
        _seed(example.name),
        opacities=bool(example.label),
        patient=Patient.drawn(np.random.default_rng(_seed(str(example.patient)))),
        pattern=next((known for known in PATTERNS if known == pattern), None),
    )


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
