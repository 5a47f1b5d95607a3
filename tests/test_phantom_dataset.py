import time
from collections import Counter
from pathlib import Path

import pytest

from lungline.datasets.prepared import prepare
from lungline.errors import DataError
from lungline.imaging.preparation import Preparation
from tests.support.small_datasets import names, opened


def test_phantoms_are_marked_as_synthetic_with_a_notice() -> None:
    dataset = opened("phantom:40")
    assert dataset.synthetic
    assert dataset.notice is not None
    assert "says nothing about patients" in dataset.notice


@pytest.mark.parametrize("count", [20, 101, 1200])
def test_the_count_is_exact(count: int) -> None:
    dataset = opened(f"phantom:{count}")
    assert len(names(dataset)) == count
    labels = Counter(example.label for example in dataset.examples)
    assert abs(labels[0] - labels[1]) <= 3
    assert abs(len(dataset.of("train")) - 0.7 * count) <= 1


def test_the_default_is_1200() -> None:
    assert len(opened("phantom").examples) == 1200


def test_patients_stay_in_a_split_with_several_images() -> None:
    splits: dict[str | None, set[str]] = {}
    for example in opened("phantom").examples:
        splits.setdefault(example.patient, set()).add(example.split)
    assert all(len(sides) == 1 for sides in splits.values())
    assert 400 < len(splits) < 900


def test_kinds_are_known() -> None:
    kinds = Counter(example.kind for example in opened("phantom").examples)
    assert min(kinds["normal"], kinds["bacterial"], kinds["viral"]) > 100
    assert kinds["unknown"] == 0


def test_the_same_phantom_is_drawn_every_time() -> None:
    first, second = opened("phantom:30"), opened("phantom:30")
    assert [first.read(example) for example in first.examples] == [second.read(example) for example in second.examples]
    assert len({first.read(example) for example in first.examples}) == 30


def test_the_digest_needs_no_drawing(tmp_path: Path) -> None:
    start = time.process_time()
    dataset = opened("phantom:100000")
    digests = {opened(f"phantom:{count}").digest for count in (40, 41)} | {dataset.digest}
    assert len(digests) == 3
    assert time.process_time() - start < 5
    assert prepare(opened("phantom:40"), Preparation(32), tmp_path).digest == opened("phantom:40").digest


@pytest.mark.parametrize("count", ["0", "19", "-5", "many", "1.5", "99999999"])
def test_another_count_is_refused(count: str) -> None:
    with pytest.raises(DataError, match=r"Expected phantom:N with N from 20 to 1,000,000"):
        opened(f"phantom:{count}")
