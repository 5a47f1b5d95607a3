"""Data sets of other tasks than the default: which finding a folder, a file's name, or a number means."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.expectations import expectations_of
from lungline.datasets.medmnist import MedMNIST
from lungline.datasets.opening import open_dataset, prepare
from lungline.datasets.prepared import Prepared
from lungline.diagnosis.image_rules import DEFAULT, reason_not_meant
from lungline.errors import DataError
from lungline.imaging.dicom_facts import NAMES, DicomFacts
from lungline.imaging.preparation import Preparation
from lungline.settings import Settings
from lungline.task.finding import Images
from lungline.task.reading import load_task
from lungline.task.task import Task
from lungline.task.writing import new_task
from tests.support.small_datasets import SETTINGS, folder_of, image

KIND = load_task("pneumonia-kind")
MANY = new_task("device", "many-at-once")
ROUND = {
    "NORMAL/IM-0001-0001.png": 0,
    "PNEUMONIA/person1_bacteria_1.png": 1,
    "PNEUMONIA/person2_virus_1.png": 2,
}


def public_set(splits: tuple[str, ...] = ("train", "val", "test")) -> dict[str, bytes]:
    paths = [f"{split}/{path}" for split in splits for path in ROUND]
    return {path.replace("1.png", f"{at}.png"): image(at) for at, path in enumerate(paths)}


def test_a_files_name_decides_where_a_folder_fits_two_findings(tmp_path: Path) -> None:
    files = public_set() | {"train/PNEUMONIA/person9_1.png": image(99), "train/Viral Pneumonia/a.png": image(98)}
    dataset = open_dataset(str(folder_of(tmp_path / "set", files)), settings=SETTINGS, task=KIND)
    assert Counter(KIND.called(example.label) for example in dataset.of("train")) == Counter(
        NORMAL=1, BACTERIAL=1, VIRAL=2
    )
    assert "train/BACTERIAL/PNEUMONIA/person1_bacteria_1.png" in {example.name for example in dataset.examples}
    assert dataset.notice is not None
    assert "left out PNEUMONIA (1 file)" in dataset.notice or "train/PNEUMONIA (1 file)" in dataset.notice
    assert "the folder fits several findings, and no file name says which" in dataset.notice


def test_every_finding_must_be_in_every_split(tmp_path: Path) -> None:
    files = {path: data for path, data in public_set().items() if not path.startswith("val/PNEUMONIA/person2")}
    with pytest.raises(DataError, match=r"expected all findings in val; found no VIRAL image \(1 NORMAL, 1 BACT"):
        open_dataset(str(folder_of(tmp_path / "set", files)), settings=SETTINGS, task=KIND)


def test_the_setting_names_the_task(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", public_set())
    dataset = open_dataset(str(folder), settings=Settings(offline=True, task="pneumonia-kind"))
    assert dataset.task == KIND
    with pytest.raises(DataError, match="brings no data along"):
        open_dataset("auto", settings=Settings(offline=True, data="auto", task="pneumonia-kind"))


def arrays(file: Path, labels: np.ndarray) -> str:
    values = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28)).astype(np.uint8)
    content: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        content |= {f"{split}_images": values, f"{split}_labels": labels}
    np.savez(file, allow_pickle=False, **content)
    return str(file)


def test_columns_of_an_array_are_findings_that_may_be_there_at_once(tmp_path: Path) -> None:
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.uint8)
    dataset = open_dataset(arrays(tmp_path / "a.npz", labels), settings=SETTINGS, task=MANY)
    assert [example.label for example in dataset.of("test")] == [0, 1, 2, 3]
    assert [example.name for example in dataset.of("test")][3] == "test/FIRST+SECOND/00003.png"
    with pytest.raises(DataError, match="expected 4 rows of 2 numbers or more, each 0 or 1; found uint8 of shape"):
        open_dataset(arrays(tmp_path / "b.npz", labels[:, :1]), settings=SETTINGS, task=MANY)


def test_numbers_of_an_array_are_the_tasks_own(tmp_path: Path) -> None:
    values = KIND.model_dump()
    for finding, number in zip(values["finding"], (5, 0, 9), strict=True):
        finding["number"] = number
    task = Task.model_validate(values)
    labels = np.array([[9], [0], [5]], np.uint8)
    dataset = open_dataset(arrays(tmp_path / "a.npz", labels), settings=SETTINGS, task=task)
    assert [example.label for example in dataset.of("val")] == [2, 1, 0]
    with pytest.raises(DataError, match=r"integers 5 \(NORMAL\), 0 \(BACTERIAL\) or 9 \(VIRAL\); found 1 to 9"):
        open_dataset(arrays(tmp_path / "b.npz", labels + (labels == 0)), settings=SETTINGS, task=task)


def test_a_set_of_medmnist_is_opened_by_its_name() -> None:
    assert MedMNIST.named("chestmnist").files[64][0] == "chestmnist_64.npz"
    assert MedMNIST.named("pneumoniamnist") == MedMNIST()
    for spec, reason in (
        ("medmnist:xmnist:64", "NAME one of bloodmnist"),
        ("medmnist:octmnist:65", "SIZE one of 28, 64"),
    ):
        with pytest.raises(DataError, match=reason):
            open_dataset(spec, settings=SETTINGS, task=KIND)


def test_prepared_data_remember_their_task(tmp_path: Path) -> None:
    dataset = open_dataset("phantom:120", settings=SETTINGS, task=KIND)
    prepared = prepare(dataset, Preparation(32), tmp_path / "prepared")
    assert prepared.task == Prepared.load(tmp_path / "prepared").task == KIND
    assert prepared.counts["train"].keys() == {"NORMAL", "BACTERIAL", "VIRAL"}
    assert sum(prepared.counts["train"].values()) == 84


def test_the_contract_counts_every_finding() -> None:
    sentences = [expectation.sentence for expectation in expectations_of(MANY)]
    assert "train must have at least 30 SECOND images" in sentences
    assert "second must be at most 95 % of test" in sentences


def test_a_task_may_ask_more_of_a_header_than_a_frontal_chest() -> None:
    facts = DicomFacts(dict.fromkeys(NAMES, "") | {"modality": "DX", "view": "AP"}, not_frontal=None, is_own=False)
    assert reason_not_meant(facts, DEFAULT, Images()) is None
    assert reason_not_meant(facts, DEFAULT, Images(modality=("cr", "dx"), body_part=("CHEST",))) is None
    reason = reason_not_meant(facts, DEFAULT, Images(view=("PA",)))
    assert reason == "The image is kept, and is not meant for this model: its view is another."
