"""Merge the labels that readers gave into a data set.

An image that is in both is taken once, where the data set has it, with the reader's label. All images of a patient stay
in the split where the data set has that patient.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lungline.datasets.dataset import READ_THREADS, Dataset, Example
from lungline.task.task import Task

PREFIX = "feedback/"
"""Names of merged images start with this, so that reader labels can be counted."""


def merge(base: Dataset, feedback: Dataset) -> Dataset:
    """The data set with the readers' labels; its digest changes, and its name says how many labels were merged.

    Reads every file once. Raises DataError when a file cannot be read.
    """
    labelled, disputed = _agreed(feedback)
    twins: dict[str, Example] = {}
    replaced: set[str] = set()
    for example, sha256 in _hashed(base):
        if sha256 in labelled:
            twins.setdefault(sha256, example)
            replaced.add(example.name)
    split_of = {_owner(example): example.split for example in base.examples}
    for sha256, twin in twins.items():
        split_of.setdefault(_owner(labelled[sha256]), twin.split)
    merged = {_placed(example, twins.get(sha256), split_of, base.task): example for sha256, example in labelled.items()}
    kept = tuple(example for example in base.examples if example.name not in replaced)
    sources = {example.name: source for example, source in merged.items()}

    def read(example: Example) -> bytes:
        source = sources.get(example.name)
        return feedback.read(source) if source else base.read(example)

    notice = _notice(len(merged), len(twins), disputed)
    return replace(
        base,
        name=f"{base.name} with {_count(len(merged), 'reader label')}",
        examples=(*kept, *merged),
        reader=read,
        notice=" ".join(sentence for sentence in (base.notice, notice) if sentence),
        recipe=base.recipe and f"{base.recipe}\nfeedback {feedback.digest}",
    )


def _agreed(feedback: Dataset) -> tuple[dict[str, Example], int]:
    """One example for each image, by the SHA-256 of its file, and the number of images with contradicting labels."""
    examples: dict[str, Example] = {}
    disputed: set[str] = set()
    for example, sha256 in _hashed(feedback):
        if examples.setdefault(sha256, example).label != example.label:
            disputed.add(sha256)
    return {sha256: example for sha256, example in examples.items() if sha256 not in disputed}, len(disputed)


def _hashed(dataset: Dataset) -> Iterator[tuple[Example, str]]:
    def sha256(example: Example) -> str:
        return hashlib.sha256(dataset.read(example)).hexdigest()

    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from zip(dataset.examples, pool.map(sha256, dataset.examples), strict=True)


def _placed(example: Example, twin: Example | None, split_of: dict[str, str], task: Task) -> Example:
    name = PREFIX + example.name
    if twin:
        return Example(name, twin.split, example.label, twin.patient, task.kind_of(example.label, twin.name))
    return replace(example, name=name, split=split_of.get(_owner(example), example.split))


def _owner(example: Example) -> str:
    return example.patient or PREFIX + example.name


def _notice(labels: int, twins: int, disputed: int) -> str:
    replaced = f"; {twins} of them replaced a label that the data set had" if twins else ""
    left_out = f"; {_count(disputed, 'image')} with contradicting labels left out" if disputed else ""
    return f"Merged {_count(labels, 'reader label')} into the data{replaced}{left_out}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
