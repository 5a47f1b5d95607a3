"""A data set of phantoms: any number of them, always the same, of patients who do not exist."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungline.datasets import phantom, phantom_anatomy, phantom_findings
from lungline.datasets.dataset import Dataset, Example
from lungline.datasets.phantom import PATTERNS, jpeg
from lungline.datasets.phantom_anatomy import Patient
from lungline.datasets.phantom_findings import EXTRAS
from lungline.errors import DataError
from lungline.task.reading import default_task
from lungline.task.task import Task

PHANTOMS = 1200
NOTICE = "Phantoms are drawn, not photographed: a model trained on them says nothing about patients."

_SHARES = {"val": 0.1, "test": 0.2}
_FEWEST = 20
_MOST = 1_000_000
_KINDS = {"clear": "normal", "lobar": "bacterial", "patchy": "viral", "perihilar": "viral"}
OPACITY = "opacity"
_TOGETHER = {OPACITY, *EXTRAS}
"""What may be there at once, by the names of a task's findings in lower case."""


def open_phantoms(count: str, task: Task | None = None) -> Dataset:
    """A data set of that many phantoms, half of them with a finding, with no patient in two splits.

    Each image is drawn when it is read. Where many findings may be there at once, and they are named EFFUSION, OPACITY,
    NODULE or DEVICE, every set of them is drawn equally often. Else an image has opacities or not: where a task has
    findings of their kinds, bacterial and viral, these are the labels. Raises DataError unless `count` is a number from
    20 to 1,000,000, and for a task that phantoms cannot be of.
    """
    task = task or default_task()
    if not count.isdecimal() or not _FEWEST <= int(count) <= _MOST:
        raise DataError(f"Expected phantom:N with N from {_FEWEST} to {_MOST:,}; found {count!r}.")
    sizes = {split: round(int(count) * share) for split, share in _SHARES.items()}
    sizes = {"train": int(count) - sum(sizes.values())} | sizes
    examples = tuple(example for split, size in sizes.items() for example in _examples(split, size, task))
    recipe = f"{count} {_code_digest()}{'' if task == default_task() else f' {task.name}'}"
    name = f"phantom:{count}"
    return Dataset(name, examples, _read, synthetic=True, notice=NOTICE, recipe=recipe, task=task)


def _code_digest() -> str:
    """A digest of the code that draws: other code draws other images."""
    modules = (phantom_anatomy, phantom_findings, phantom, sys.modules[__name__])
    return hashlib.sha256(b"\0".join(Path(str(module.__file__)).read_bytes() for module in modules)).hexdigest()


def _pattern(patient: int, seed: int, task: Task) -> str:
    """What a patient with a finding has: a kind of opacities, or several findings joined by +."""
    names = [finding.name.lower() for finding in task.positives]
    if task.kind != "many-at-once" or not set(names) <= _TOGETHER:
        return PATTERNS[seed // 3 % len(PATTERNS)]
    # All findings, then each set and what it leaves out: a few patients have every finding, and lack it.
    every = (1 << len(names)) - 1
    chosen = [every, *(each for some in range(1, 1 << len(names) - 1) for each in (some, every - some))]
    there = chosen[patient % len(chosen)]
    return "+".join(name for at, name in enumerate(names) if there >> at & 1)


def _label(pattern: str, task: Task) -> int:
    if pattern == "clear":
        return 0
    if pattern not in PATTERNS:
        places = {finding.name.lower(): at for at, finding in enumerate(task.findings)}
        return task.label_for(frozenset(places[name] for name in pattern.split("+")))
    named = [at for at, finding in enumerate(task.findings) if finding.label.lower() == _KINDS[pattern]]
    if not named and len(task.positives) > 1:
        raise DataError(f"Phantoms are drawn for other findings than those of the task {task.name}: give --data.")
    return task.label_for(frozenset(named or [1]))


def _examples(split: str, size: int, task: Task) -> Iterator[Example]:
    """Examples of one split: half of each class, each patient with one to three images of one class."""
    for sick, share in ((0, size // 2), (1, size - size // 2)):
        done = patient = 0
        while done < share:
            name = f"{split}-{'np'[sick]}{patient:05d}"
            seed = _seed(name)
            images = min(1 + seed % 3, share - done)
            pattern = _pattern(patient, seed, task) if sick else "clear"
            label = _label(pattern, task)
            for image in range(1, images + 1):
                file = f"{split}/{task.called(label)}/{name}_{pattern}_{image}.jpeg"
                yield Example(file, split, label, name, _KINDS.get(pattern, "several" if "+" in pattern else pattern))
            done += images
            patient += 1


def _read(example: Example) -> bytes:
    pattern = example.name.split("_")[-2]
    there = set(pattern.split("+"))
    return jpeg(
        _seed(example.name),
        opacities=bool(there & {OPACITY, *PATTERNS}),
        patient=Patient.drawn(np.random.default_rng(_seed(str(example.patient)))),
        pattern=next((name for name in PATTERNS if name == pattern), None),
        extras=[extra for extra in EXTRAS if extra in there],
    )


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
