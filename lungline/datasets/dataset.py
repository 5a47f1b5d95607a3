"""A labelled data set: its examples, what their file names say, and a digest that identifies its content."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

from lungline.errors import SettingsError
from lungline.task.reading import default_task
from lungline.task.task import Task

SPLITS = ("train", "val", "test")

# Threads that read files. Reading and hashing release the interpreter, and a network store makes threads wait.
READ_THREADS = 8

_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    `name` is unique in its data set and does not depend on where the set is stored: `train/NORMAL/IM-0115-0001.jpeg`.
    `split` differs from the split in `name` where val was cut from train. `label` is as the task has them
    (`Task.present`); 0 is the negative finding. `kind` is the subgroup for the report. `patient` is None when the file
    name has none; such an image counts as a patient of its own.
    """

    name: str
    split: str
    label: int
    patient: str | None
    kind: str

    @classmethod
    def named(cls, name: str, split: str, label: int, task: Task | None = None) -> "Example":
        """An example whose patient and kind come from its file name, as in the public data set."""
        return cls(name, split, label, patient_of(name), (task or default_task()).kind_of(label, name))


def printable(text: str) -> str:
    """The text with bytes that are not UTF-8, as file names may have them, written as escapes: always encodable."""
    return text.encode("utf-8", "backslashreplace").decode()


def patient_of(name: str) -> str | None:
    """The patient in a file name such as `person123_bacteria_4.jpeg` or `NORMAL2-IM-0527-0001.jpeg`, or None."""
    match = _PATIENT.match(name.rpartition("/")[2])
    return match.group(1) if match else None


@dataclass(frozen=True)
class Dataset:
    """Labelled images in splits.

    `name` is safe to show. `synthetic` is true when no image is of a patient. `notice` is a sentence for the user.
    `recipe` describes a data set that is computed rather than stored, completely: it replaces the bytes in the digest.
    `task` says what the labels stand for.
    """

    name: str
    examples: tuple[Example, ...] = field(repr=False)
    reader: Callable[[Example], bytes] = field(repr=False)
    synthetic: bool = False
    notice: str | None = None
    recipe: str | None = None
    task: Task = field(default_factory=default_task, repr=False)

    def read(self, example: Example) -> bytes:
        """The bytes of an example's image file. Raises DataError when it cannot be read. Safe to call from threads."""
        return self.reader(example)

    def of(self, split: str) -> tuple[Example, ...]:
        """The examples of one split."""
        return tuple(example for example in self.examples if example.split == split)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that training can see; neither order nor location changes it.

        Reads all files once. A computed data set has the digest of its recipe: no image needs to be computed, and the
        last bit of a floating-point number, which differs between machines, does not change it.
        Raises DataError when a file cannot be read.
        """
        if self.recipe is not None:
            return hashlib.sha256(self.recipe.encode()).hexdigest()
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return digest_of(zip(self.examples, pool.map(self._hash, self.examples), strict=True))

    def _hash(self, example: Example) -> str:
        return hashlib.sha256(self.read(example)).hexdigest()


def digest_of(hashed: Iterable[tuple[Example, str]]) -> str:
    """The digest of examples, each with the SHA-256 (hex) of its file; the order does not matter."""
    lines = sorted("\0".join((example.split, str(example.label), example.name, sha256)) for example, sha256 in hashed)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def cut_validation(examples: Iterable[Example], share: float = 0.1, *, into: str = "val") -> tuple[Example, ...]:
    """The examples with about `share` of each label of the training split moved into another, whole patients only.

    A hash of the patient selects them: the same in every run, and nearly the same when patients are added.
    """
    examples = tuple(examples)
    chosen: set[str] = set()
    for label in sorted({example.label for example in examples}):
        sizes = Counter(_owner(example) for example in examples if example.split == "train" and example.label == label)
        taken = sum(count for owner, count in sizes.items() if owner in chosen)
        # The last patient stays in train, so that training never loses a finding.
        for owner in sorted(sizes, key=_rank)[:-1]:
            if taken >= share * sizes.total():
                break
            if owner not in chosen:
                chosen.add(owner)
                taken += sizes[owner]
    return tuple(
        Example(example.name, into, example.label, example.patient, example.kind)
        if example.split == "train" and _owner(example) in chosen
        else example
        for example in examples
    )


def _owner(example: Example) -> str:
    return example.patient or example.name


def _rank(owner: str) -> str:
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()


def patient_in(key: str, pattern: re.Pattern[str] | None) -> str | None:
    """The patient in an object key, found by `pattern` or as in the public data set; None when there is none."""
    match = pattern.search(key) if pattern else None
    return match.group(1) if match else patient_of(key)


def patient_pattern(expression: str | None) -> re.Pattern[str] | None:
    """The setting worklist.patient_pattern, compiled. Raises SettingsError unless it is an expression with a group."""
    if not expression:
        return None
    try:
        pattern = re.compile(expression)
    except re.error as exc:
        raise SettingsError(f"The setting worklist.patient_pattern is not a regular expression: {exc}.") from exc
    if not pattern.groups:
        raise SettingsError("The setting worklist.patient_pattern has no group for the patient.")
    return pattern
