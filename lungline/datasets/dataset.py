"""A labelled data set: its examples, what their names tell, and a digest that tells whether two are the same."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lungline.errors import SettingsError

CLASSES = ("NORMAL", "PNEUMONIA")
SPLITS = ("train", "val", "test")
Kind = Literal["normal", "bacterial", "viral", "unknown"]

# Reading and hashing release the interpreter; on a network store more threads than cores wait together.
READERS = 8

_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    `name` is unique in its data set and does not depend on where the set lies: `train/NORMAL/IM-0115-0001.jpeg`.
    `split` may differ from the name's when the set had no such split and it was cut. `label` is an index into CLASSES.
    `patient` is None when the name does not tell; such an image counts as a patient of its own.
    """

    name: str
    split: str
    label: int
    patient: str | None
    kind: Kind

    @classmethod
    def named(cls, name: str, split: str, label: int) -> "Example":
        """An example whose file name tells patient and kind, as in the public data set."""
        return cls(name, split, label, patient_of(name), kind_of(name, label))


def patient_of(name: str) -> str | None:
    """The patient that a file name tells, as in `person123_bacteria_4.jpeg` or `NORMAL2-IM-0527-0001.jpeg`."""
    found = _PATIENT.match(name.rpartition("/")[2])
    return found.group(1) if found else None


def kind_of(name: str, label: int) -> Kind:
    """What the label and the file name tell about the cause."""
    if label == 0:
        return "normal"
    file = name.rpartition("/")[2].lower()
    return "bacterial" if "bacteria" in file else "viral" if "virus" in file else "unknown"


@dataclass(frozen=True)
class Dataset:
    """Labelled images in splits.

    `name` is safe to show. `synthetic` tells that no patient is in it; `notice` is a sentence that the user must see.
    `recipe` says all of a data set that is computed and not stored; then it stands for the bytes.
    """

    name: str
    examples: tuple[Example, ...] = field(repr=False)
    reader: Callable[[Example], bytes] = field(repr=False)
    synthetic: bool = False
    notice: str | None = None
    recipe: str | None = None

    def read(self, example: Example) -> bytes:
        """The bytes of an example's image file. Raises DataError when it cannot be read; may be called by threads."""
        return self.reader(example)

    def of(self, split: str) -> tuple[Example, ...]:
        """The examples of one split."""
        return tuple(example for example in self.examples if example.split == split)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that training can see, whatever the order and wherever it lies; reads all files once.

        A computed data set has that of its recipe: it is known without computing all images, and the last bit of a
        floating-point number, which differs between machines, does not change it.
        Raises DataError when a file cannot be read.
        """
        if self.recipe is not None:
            return hashlib.sha256(self.recipe.encode()).hexdigest()
        with ThreadPoolExecutor(READERS) as readers:
            return digest_of(zip(self.examples, readers.map(self._hash, self.examples), strict=True))

    def _hash(self, example: Example) -> str:
        return hashlib.sha256(self.read(example)).hexdigest()


def digest_of(hashed: Iterable[tuple[Example, str]]) -> str:
    """The digest of examples with the SHA-256 (hex) of their files; the order does not matter."""
    lines = sorted("\0".join((example.split, str(example.label), example.name, sha256)) for example, sha256 in hashed)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def cut_validation(examples: Iterable[Example], share: float = 0.1) -> tuple[Example, ...]:
    """The examples with about `share` of each class of the training split moved to validation, whole patients only.

    Which ones is decided by a hash of the patient: the same in every run, and it stays when others are added.
    """
    examples = tuple(examples)
    chosen: set[str] = set()
    for label in range(len(CLASSES)):
        sizes = Counter(_owner(example) for example in examples if example.split == "train" and example.label == label)
        taken = sum(count for owner, count in sizes.items() if owner in chosen)
        # The last patient stays, so that training never loses a class.
        for owner in sorted(sizes, key=_draw)[:-1]:
            if taken >= share * sizes.total():
                break
            if owner not in chosen:
                chosen.add(owner)
                taken += sizes[owner]
    return tuple(
        Example(example.name, "val", example.label, example.patient, example.kind)
        if example.split == "train" and _owner(example) in chosen
        else example
        for example in examples
    )


def _owner(example: Example) -> str:
    return example.patient or example.name


def _draw(owner: str) -> str:
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()


def patient_in(key: str, pattern: re.Pattern[str] | None) -> str | None:
    """The patient that a key names; None when it names none."""
    found = pattern.search(key) if pattern else None
    return found.group(1) if found else patient_of(key)


def patient_pattern(expression: str | None) -> re.Pattern[str] | None:
    """The setting worklist.patient_pattern. Raises SettingsError when it is no expression with a group."""
    if not expression:
        return None
    try:
        pattern = re.compile(expression)
    except re.error as exc:
        raise SettingsError(f"The setting worklist.patient_pattern is no regular expression: {exc}.") from exc
    if not pattern.groups:
        raise SettingsError("The setting worklist.patient_pattern has no group that names the patient.")
    return pattern
