"""Reader labels in the data of a training run: counted, in one split, and part of the digest."""

from collections import defaultdict
from pathlib import Path

import pytest

from lungline.datasets.opening import Dataset, open_dataset, prepare
from lungline.datasets.phantom import jpeg
from lungline.errors import DataError
from lungline.imaging.preparation import Preparation
from lungline.settings import Settings

PATIENTS = {"train": "person1", "val": "person2", "test": "person3"}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A data set with one patient of each class in each split."""
    folder = tmp_path / "films"
    for split, patient in PATIENTS.items():
        write(folder / split / "PNEUMONIA" / f"{patient}_bacteria_1.jpeg", jpeg(int(patient[-1]), opacities=True))
        write(folder / split / "NORMAL" / f"IM-000{patient[-1]}-0001.jpeg", jpeg(int(patient[-1]), opacities=False))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Reader labels, in the layout of an export."""
    folder = tmp_path / "labels"
    write(folder / "labels.csv", b"file,identity\n")
    write(folder / "train" / "PNEUMONIA" / f"person77_{'a' * 32}.jpeg", jpeg(77, opacities=True))
    return folder


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def merged(films: Path | str, labels: Path) -> Dataset:
    return open_dataset(str(films), settings=Settings(), feedback=str(labels))


def splits(dataset: Dataset) -> dict[str, set[str]]:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for example in dataset.examples:
        splits_of[example.patient or example.name].add(example.split)
    return splits_of


def test_reader_labels_are_added_and_counted(films: Path, labels: Path, tmp_path: Path) -> None:
    plain, both = open_dataset(str(films), settings=Settings()), merged(films, labels)
    assert len(both.examples) == len(plain.examples) + 1
    assert both.digest != plain.digest
    assert both.name == "films with 1 reader label"
    assert both.notice == "Merged 1 reader label into the data."
    prepared = prepare(both, Preparation(size=32), tmp_path / "prepared")
    assert prepared.feedback == 1
    assert prepared.digest == both.digest
    assert not any(row.error for row in prepared.index)


def test_a_patient_of_the_data_set_stays_in_its_split(films: Path, labels: Path) -> None:
    write(labels / "train" / "NORMAL" / f"person3_{'b' * 32}.jpeg", jpeg(5, opacities=False))
    splits_of = splits(merged(films, labels))
    assert splits_of["person3"] == {"test"}
    assert all(len(sides) == 1 for sides in splits_of.values())


def test_an_image_of_the_data_set_gets_the_reader_label(films: Path, labels: Path) -> None:
    """An image that is in both is taken once, in the split of the data set, with its patient there."""
    write(labels / "train" / "NORMAL" / f"person88_{'c' * 32}.jpeg", jpeg(3, opacities=True))  # it is person3's
    write(labels / "train" / "NORMAL" / f"person88_{'d' * 32}.jpeg", jpeg(6, opacities=False))  # of the same patient
    write(films / "test" / "PNEUMONIA" / "person4_virus_1.jpeg", jpeg(4, opacities=True))
    both = merged(films, labels)
    (corrected,) = (example for example in both.examples if "c" * 32 in example.name)
    assert (corrected.split, corrected.label, corrected.patient) == ("test", 0, "person3")
    assert "test/PNEUMONIA/person3_bacteria_1.jpeg" not in {example.name for example in both.examples}
    assert splits(both)["person88"] == {"test"}
    assert both.read(corrected) == jpeg(3, opacities=True)


def test_an_image_with_contradicting_labels_is_left_out(films: Path, labels: Path) -> None:
    write(labels / "val" / "NORMAL" / f"person77_{'e' * 32}.jpeg", jpeg(77, opacities=True))
    both = merged(films, labels)
    assert not [example for example in both.examples if example.name.startswith("feedback/")]
    assert "1 image with contradicting labels left out" in (both.notice or "")


def test_phantoms_with_reader_labels_have_another_digest(labels: Path) -> None:
    plain, both = open_dataset("phantom:20", settings=Settings()), merged("phantom:20", labels)
    assert both.synthetic
    assert both.digest not in {plain.digest, merged("phantom:30", labels).digest}
    write(labels / "val" / "NORMAL" / f"person78_{'f' * 32}.jpeg", jpeg(78, opacities=False))
    assert merged("phantom:20", labels).digest != both.digest


def test_missing_feedback_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data at .*nowhere"):
        merged(films, tmp_path / "nowhere")
