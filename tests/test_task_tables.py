"""Labels in tables beside the images, as NIH, CheXpert, VinDr and RSNA publish them."""

from collections import Counter
from pathlib import Path

import pytest

from lungline.datasets.dataset import Dataset
from lungline.datasets.opening import open_dataset
from lungline.errors import DataError
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.task.writing import new_task
from tests.support.small_datasets import SETTINGS, folder_of, image


def findings(**columns: list[str]) -> Task:
    """A task with findings that may be there at once, each with its columns; NORMAL is `No Finding`."""
    values = new_task("several", "many-at-once").model_dump()
    normal, first, _ = values["finding"]
    normal["columns"] = ["No Finding"]
    values["finding"] = [normal] + [
        first | {"name": name, "label": name.capitalize(), "key": str(at + 2), "columns": each, "folders": []}
        for at, (name, each) in enumerate(columns.items())
    ]
    return Task.model_validate(values)


SEVERAL = findings(EFFUSION=["Effusion", "Pleural Effusion"], OPACITY=["Lung Opacity", "Infiltration"])


def opened(folder: Path, table: str, images: list[str], task: Task, **more: str) -> Dataset:
    files = {path: image(at) for at, path in enumerate(images)}
    files |= {name.replace("__", "."): text.encode() for name, text in more.items()} | {"train.csv": table.encode()}
    return open_dataset(str(folder_of(folder, files)), settings=SETTINGS, require=(), task=task)


def labels(dataset: Dataset) -> dict[str, str]:
    """The label of each image by the name of its file."""
    return {example.name.rpartition("/")[2]: dataset.task.called(example.label) for example in dataset.examples}


NIH = """Image Index,Finding Labels,Follow-up #,Patient ID
00000001_000.png,Effusion|Infiltration,0,1
00000001_001.png,Effusion,1,1
00000002_000.png,Hernia,0,2
00000003_000.png,No Finding,0,3
00000004_000.png,Infiltration,0,4
00000009_000.png,Effusion,0,9
"""
NIH_IMAGES = [
    f"images_001/images/0000000{patient}_00{at}.png" for patient, at in ((1, 0), (1, 1), (2, 0), (3, 0), (4, 0))
]


def test_values_of_a_label_column_are_findings(tmp_path: Path) -> None:
    dataset = opened(tmp_path, NIH, NIH_IMAGES, SEVERAL)
    assert labels(dataset) == {
        "00000001_000.png": "EFFUSION+OPACITY",
        "00000001_001.png": "EFFUSION",
        "00000002_000.png": "NORMAL",  # nothing that the task looks for
        "00000003_000.png": "NORMAL",
        "00000004_000.png": "OPACITY",
    }
    assert {example.patient for example in dataset.examples} == {"1", "2", "3", "4"}
    assert dataset.notice is not None
    assert "read labels from train.csv; left out 1 image whose image is not there" in dataset.notice
    assert dataset.read(dataset.examples[0]) == image(0)


def test_of_two_findings_images_with_neither_are_left_out(tmp_path: Path) -> None:
    table = NIH.replace("Effusion|Infiltration", "Effusion|Pneumonia").replace("Infiltration", "Pneumonia")
    dataset = opened(tmp_path, table, NIH_IMAGES, default_task())
    assert labels(dataset) == {
        "00000001_000.png": "PNEUMONIA",
        "00000003_000.png": "NORMAL",
        "00000004_000.png": "PNEUMONIA",
    }
    assert dataset.notice is not None
    assert "left out 2 images with no finding of the task, NORMAL, PNEUMONIA" in dataset.notice


def test_a_list_of_names_is_a_split(tmp_path: Path) -> None:
    files = {path: image(at) for at, path in enumerate(NIH_IMAGES)} | {
        "Data_Entry_2017.csv": NIH.encode(),
        "test_list.txt": b"00000003_000.png\n00000004_000.png\n",
        "train_val_list.txt": b"00000001_000.png\n",
    }
    dataset = open_dataset(str(folder_of(tmp_path, files)), settings=SETTINGS, require=("train",), task=SEVERAL)
    assert Counter(example.split for example in dataset.examples) == Counter(train=3, test=2)


CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity,Pleural Effusion
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,F,68,Frontal,AP,1.0,,
CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,F,87,Frontal,AP,,1.0,-1.0
CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,M,41,Frontal,AP,,0.0,1.0
"""


@pytest.mark.parametrize("root", ["", "CheXpert-v1.0-small/", "archive/CheXpert-v1.0-small/"])
@pytest.mark.parametrize(
    ("uncertain", "second"), [("absent", "OPACITY"), ("present", "EFFUSION+OPACITY"), ("left out", "")]
)
def test_columns_of_0_and_1_are_findings(tmp_path: Path, root: str, uncertain: str, second: str) -> None:
    paths = [f"{root}train/patient0000{patient}/study1/view1_frontal.jpg" for patient in (1, 2, 3)]
    task = SEVERAL.model_copy(update={"uncertain": uncertain})
    dataset = opened(tmp_path, CHEXPERT, paths, task)
    called = {example.patient: task.called(example.label) for example in dataset.examples}
    second_label = {"patient00002": second} if second else {}
    assert called == {"patient00001": "NORMAL", "patient00003": "EFFUSION"} | second_label


VINDR = """image_id,rad_id,Pleural effusion,Lung Opacity,No finding
aa01,R1,1,0,0
aa01,R2,1,1,0
aa01,R3,0,0,1
bb02,R1,0,0,1
bb02,R2,0,0,1
bb02,R3,0,1,0
"""


def test_the_majority_of_readers_decides(tmp_path: Path) -> None:
    dataset = opened(tmp_path, VINDR, ["train/aa01.dicom", "train/bb02.dicom"], SEVERAL)
    assert labels(dataset) == {"aa01.dicom": "EFFUSION", "bb02.dicom": "NORMAL"}


def test_boxes_of_an_image_are_taken_together(tmp_path: Path) -> None:
    table = (
        "image_id,class_name,rad_id,x_min\naa01,Pleural effusion,R1,4\naa01,Lung Opacity,R2,9\nbb02,No finding,R1,\n"
    )
    dataset = opened(tmp_path, table, ["train/aa01.dicom", "train/bb02.dicom"], SEVERAL)
    assert labels(dataset) == {"aa01.dicom": "EFFUSION+OPACITY", "bb02.dicom": "NORMAL"}


def test_an_image_is_named_without_its_extension(tmp_path: Path) -> None:
    values = default_task().model_dump()
    values["finding"][1]["columns"] = ["Target"]
    table = "patientId,x,y,width,height,Target\n0004,,,,,0\n0436,264,152,213,379,1\n0436,562,152,256,453,1\n"
    dataset = opened(tmp_path, table, ["images/0004.dcm", "images/0436.dcm"], Task.model_validate(values))
    assert labels(dataset) == {"0004.dcm": "NORMAL", "0436.dcm": "PNEUMONIA"}
    assert {example.patient for example in dataset.examples} == {"0004", "0436"}


def test_a_cell_that_is_no_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train\.csv, row 2: expected 0, 1, -1 or nothing in column 'Lung Opacity'; found"
    ):
        opened(tmp_path, "file,Lung Opacity\na.png,perhaps\n", ["a.png"], SEVERAL)


def test_a_table_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No image of train\.csv has both a file and a label: left out 1 image whose"):
        opened(tmp_path, "file,Effusion\nb.png,1\n", ["a.png"], SEVERAL)


def test_a_table_of_other_things_is_no_table_of_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected images in"):
        opened(tmp_path, "file,weight\na.png,3\n", ["a.png"], SEVERAL)


def test_without_a_test_split_patients_are_set_aside_for_it(tmp_path: Path) -> None:
    names = [f"p{patient}_{at}.png" for patient in range(60) for at in range(2)]
    rows = [f"{name},{name.split('_')[0]},{int(name[1:].split('_')[0]) % 2},0" for name in names]
    files = {name: image(at) for at, name in enumerate(names)} | {
        "labels.csv": "\n".join(["file,patient,Effusion,Lung Opacity", *rows]).encode()
    }
    task = findings(EFFUSION=["Effusion"])
    dataset = open_dataset(str(folder_of(tmp_path, files)), settings=SETTINGS, task=task)
    patients = {split: {example.patient for example in dataset.of(split)} for split in ("train", "val", "test")}
    assert len(patients["test"]) == pytest.approx(12, abs=2)
    assert not patients["train"] & patients["test"]
    assert not patients["val"] & patients["test"]
    assert dataset.notice is not None
    assert "took a fifth of its patients as test" in dataset.notice
