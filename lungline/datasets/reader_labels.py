"""Labels of readers merged into a data set that training knows.

A picture that is in both is taken once, where the data set has it, with the reader's label. All pictures of a patient
stay on the side of the split where the data set has that patient.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lungline.datasets.dataset import READERS, Dataset, Example, kind_of

PREFIX = "feedback/"
"""Names of merged pictures begin so: what came of readers can be counted."""


def merge(base: Dataset, feedback: Dataset) -> Dataset:
    """The data set with the labels of readers; its digest is another, and its name says how many labels there are.

    Reads every file once. Raises DataError when one cannot be read.
    """
    said, disputed = _agreed(feedback)
    twins: dict[str, Example] = {}
    replaced: set[str] = set()
    for example, sha256 in _hashed(base):
        if sha256 in said:
            twins.setdefault(sha256, example)
            replaced.add(example.name)
    homes = {_owner(example): example.split for example in base.examples}
    for sha256, twin in twins.items():
        homes.setdefault(_owner(said[sha256]), twin.split)
    placed = {_placed(example, twins.get(sha256), homes): example for sha256, example in said.items()}
    kept = tuple(example for example in base.examples if example.name not in replaced)
    sources = {merged.name: source for merged, source in placed.items()}

    def read(example: Example) -> bytes:
        source = sources.get(example.name)
        return feedback.read(source) if source else base.read(example)

    return replace(
        base,
        name=f"{base.name} with {len(placed)} labels of readers",
        examples=(*kept, *placed),
        reader=read,
        notice=" ".join(part for part in (base.notice, _told(len(placed), len(twins), disputed)) if part),
        recipe=base.recipe and f"{base.recipe}\nfeedback {feedback.digest}",
    )


def _agreed(feedback: Dataset) -> tuple[dict[str, Example], int]:
    """One example for each picture, by the SHA-256 of its file; and how many pictures readers disagree on."""
    said: dict[str, Example] = {}
    disputed: set[str] = set()
    for example, sha256 in _hashed(feedback):
        if said.setdefault(sha256, example).label != example.label:
            disputed.add(sha256)
    return {sha256: example for sha256, example in said.items() if sha256 not in disputed}, len(disputed)


def _hashed(dataset: Dataset) -> Iterator[tuple[Example, str]]:
    def sha256(example: Example) -> str:
        return hashlib.sha256(dataset.read(example)).hexdigest()

    with ThreadPoolExecutor(READERS) as readers:
        yield from zip(dataset.examples, readers.map(sha256, dataset.examples), strict=True)


def _placed(example: Example, twin: Example | None, homes: dict[str, str]) -> Example:
    if twin:
        return Example(
            PREFIX + example.name, twin.split, example.label, twin.patient, kind_of(twin.name, example.label)
        )
    return replace(example, name=PREFIX + example.name, split=homes.get(_owner(example), example.split))


def _owner(example: Example) -> str:
    return example.patient or PREFIX + example.name


def _told(labels: int, twins: int, disputed: int) -> str:
    known = f", {twins} of them of pictures that it has already" if twins else ""
    left = f"; {disputed} pictures that readers disagree on were left out" if disputed else ""
    return f"{labels} labels of readers were merged into the data{known}{left}."
