"""Labels of readers in a training run's data: counted, on one side of a split, and part of the digest."""

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
def said(tmp_path: Path) -> Path:
    """What readers said, in the layout of an export."""
    folder = tmp_path / "said"
    write(folder / "labels.csv", b"file,identity\n")
    write(folder / "train" / "PNEUMONIA" / f"person77_{'a' * 32}.jpeg", jpeg(77, opacities=True))
    return folder


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def merged(films: Path | str, said: Path) -> Dataset:
    return open_dataset(str(films), settings=Settings(), feedback=str(said))


def splits(dataset: Dataset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for example in dataset.examples:
        found[example.patient or example.name].add(example.split)
    return found


def test_labels_of_readers_are_added_told_and_counted(films: Path, said: Path, tmp_path: Path) -> None:
    plain, both = open_dataset(str(films), settings=Settings()), merged(films, said)
    assert len(both.examples) == len(plain.examples) + 1
    assert both.digest != plain.digest
    assert both.name == "films with 1 labels of readers"
    assert both.notice == "1 labels of readers were merged into the data."
    prepared = prepare(both, Preparation(size=32), tmp_path / "prepared")
    assert prepared.feedback == 1
    assert prepared.digest == both.digest
    assert not any(row.error for row in prepared.index)


def test_a_patient_whom_the_data_set_knows_stays_on_that_side(films: Path, said: Path) -> None:
    write(said / "train" / "NORMAL" / f"person3_{'b' * 32}.jpeg", jpeg(5, opacities=False))
    found = splits(merged(films, said))
    assert found["person3"] == {"test"}
    assert all(len(sides) == 1 for sides in found.values())


def test_a_picture_that_the_data_set_has_is_taken_once_with_the_reader_s_label(films: Path, said: Path) -> None:
    write(said / "train" / "NORMAL" / f"person88_{'c' * 32}.jpeg", jpeg(3, opacities=True))  # it is person3's
    write(said / "train" / "NORMAL" / f"person88_{'d' * 32}.jpeg", jpeg(6, opacities=False))  # of the same patient
    write(films / "test" / "PNEUMONIA" / "person4_virus_1.jpeg", jpeg(4, opacities=True))
    both = merged(films, said)
    (corrected,) = (example for example in both.examples if "c" * 32 in example.name)
    assert (corrected.split, corrected.label, corrected.patient) == ("test", 0, "person3")
    assert "test/PNEUMONIA/person3_bacteria_1.jpeg" not in {example.name for example in both.examples}
    assert splits(both)["person88"] == {"test"}
    assert both.read(corrected) == jpeg(3, opacities=True)


def test_a_picture_that_readers_disagree_on_is_left_out(films: Path, said: Path) -> None:
    write(said / "val" / "NORMAL" / f"person77_{'e' * 32}.jpeg", jpeg(77, opacities=True))
    both = merged(films, said)
    assert not [example for example in both.examples if example.name.startswith("feedback/")]
    assert "1 pictures that readers disagree on were left out" in (both.notice or "")


def test_phantoms_with_labels_of_readers_have_a_digest_of_their_own(said: Path) -> None:
    plain, both = open_dataset("phantom:20", settings=Settings()), merged("phantom:20", said)
    assert both.synthetic
    assert both.digest not in {plain.digest, merged("phantom:30", said).digest}
    write(said / "val" / "NORMAL" / f"person78_{'f' * 32}.jpeg", jpeg(78, opacities=False))
    assert merged("phantom:20", said).digest != both.digest


def test_feedback_that_is_not_there_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data at .*nowhere"):
        merged(films, tmp_path / "nowhere")
