import time
from collections import Counter
from pathlib import Path

import pytest

from lungline.datasets.phantom_dataset import _TOGETHER
from lungline.datasets.prepared import prepare
from lungline.errors import DataError
from lungline.imaging.preparation import Preparation
from lungline.task.reading import load_task
from lungline.task.writing import new_task
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


def test_every_set_of_findings_is_drawn_as_often() -> None:
    task = load_task("phantom-findings")
    dataset = opened("phantom:1200", task=task)
    counts = Counter(example.label for example in dataset.examples)
    assert counts.keys() == set(range(16))
    assert counts[0] == pytest.approx(600, abs=3)
    assert max(counts[label] for label in range(1, 16)) < 2 * min(counts[label] for label in range(1, 16))
    for example in dataset.of("val"):
        pattern = example.name.split("_")[-2]
        assert pattern == ("clear" if not example.label else task.called(example.label).lower())
    assert {example.kind for example in dataset.examples} == {"normal", *_TOGETHER, "several"}
    few = opened("phantom:40", task=task)
    assert min(Counter(at for each in few.of("val") for at in task.present(each.label)).values()) >= 1
    assert len({few.read(example) for example in few.examples}) == 40


def test_a_task_of_other_findings_is_not_drawn() -> None:
    with pytest.raises(
        DataError, match="Phantoms are drawn for other findings than those of the task ribs: give --data"
    ):
        opened("phantom:40", task=new_task("ribs", "many-at-once", ("Normal", "Effusion", "Fracture")))
    some = opened("phantom:40", task=new_task("some", "many-at-once", ("Normal", "Nodule", "Device")))
    assert {example.label for example in some.examples} == {0, 1, 2, 3}


@pytest.mark.parametrize("count", ["0", "19", "-5", "many", "1.5", "99999999"])
def test_another_count_is_refused(count: str) -> None:
    with pytest.raises(DataError, match=r"Expected phantom:N with N from 20 to 1,000,000"):
        opened(f"phantom:{count}")
