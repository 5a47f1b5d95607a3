"""Layouts of public chest X-ray data sets, read right or refused by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungline.datasets.folder_names import label_of, split_of
from lungline.datasets.layout import find_layout
from lungline.errors import DataError
from lungline.task.reading import default_task
from tests.support.small_datasets import folder_of, image, opened, small_set

RADIOGRAPHY = [
    *(f"D/{name}/{part}/{name}-1.png" for name in ("COVID", "Lung_Opacity") for part in ("images", "masks")),
    *(f"D/{name}/{part}/{name}-1.png" for name in ("Normal", "Viral Pneumonia") for part in ("images", "masks")),
    *("D/README.md.txt", "D/COVID.metadata.xlsx"),
]


def names_in(*paths: str, only_split: str | None = None) -> set[str]:
    return set(find_layout(paths, only_split=only_split).paths)


def remarks_of(*paths: str, only_split: str | None = None) -> str:
    return "; ".join(find_layout(paths, only_split=only_split).remarks)


@pytest.mark.parametrize(
    "folders",
    [
        *("train/COVID", "COVID/train", "train/COVID/images", "train/LUNG_OPACITY", "train/BACTERIA", "train/viral"),
        *(
            "train/Tuberculosis",
            "train/NO PNEUMONIA",
            "train/NON_PNEUMONIA",
            "train/Not Normal",
            "train/COVID Pneumonia",
        ),
        *("train/Corona Virus Disease", "train/abnormal", "train/PneumoniaMaybe", "train/unlabelled"),
    ],
)
def test_another_class_is_left_out_by_name(folders: str) -> None:
    paths = ["train/NORMAL/a.png", "train/PNEUMONIA/b.png", f"{folders}/c.png", f"{folders}/d.png"]
    assert names_in(*paths) == {"train/NORMAL/a.png", "train/PNEUMONIA/b.png"}
    name = folders.removeprefix("train/").split("/")[0]
    assert remarks_of(*paths) == f"left out {name} (2 files): neither NORMAL nor PNEUMONIA"


def test_a_missing_class_names_the_folders_left_out(tmp_path: Path) -> None:
    files = {path.replace("PNEUMONIA", "BACTERIA"): data for path, data in small_set().items()}
    with pytest.raises(
        DataError, match=r"found no PNEUMONIA image .*left out BACTERIA \(6 files\): neither NORMAL nor"
    ):
        opened(folder_of(tmp_path / "set", files))


def test_the_radiography_database_is_evaluated_without_masks_and_other_classes() -> None:
    assert names_in(*RADIOGRAPHY, only_split="test") == {
        "test/NORMAL/images/Normal-1.png",
        "test/PNEUMONIA/Viral Pneumonia/images/Viral Pneumonia-1.png",
    }
    assert remarks_of(*RADIOGRAPHY, only_split="test") == (
        "read Viral Pneumonia as PNEUMONIA; "
        "left out COVID (1 file) and Lung_Opacity (1 file): neither NORMAL nor PNEUMONIA; "
        "left out masks: COVID/masks (1 file), Lung_Opacity/masks (1 file), Normal/masks (1 file) "
        "and Viral Pneumonia/masks (1 file); left out 2 files of another kind, such as D/README.md.txt"
    )


def test_class_folders_without_splits_are_refused_for_training() -> None:
    expected = (
        "without folders for train and test are Normal and Viral Pneumonia, "
        "and of neither class are COVID and Lung_Opacity"
    )
    with pytest.raises(DataError, match=expected):
        find_layout(RADIOGRAPHY)


@pytest.mark.parametrize("only_split", [None, "test"])
def test_splits_inside_of_class_folders_are_read(only_split: str | None) -> None:
    """Also where one split alone would do: train is never taken as test."""
    paths = [f"x/{name}/{split}/a.png" for name in ("NORMAL", "PNEUMONIA") for split in ("train", "test")]
    assert names_in(*paths, only_split=only_split) == {
        f"{split}/{name}/a.png" for name in ("NORMAL", "PNEUMONIA") for split in ("train", "test")
    }


def test_a_split_far_above_the_class_is_read() -> None:
    paths = ["train/site 1/NORMAL/a.png", "train/site 2/NORMAL/a.png", "train/images/PNEUMONIA/b.png"]
    expected = {"train/NORMAL/site 1/a.png", "train/NORMAL/site 2/a.png", "train/PNEUMONIA/images/b.png"}
    assert names_in(*paths, only_split="test") == expected


@pytest.mark.parametrize(
    ("mask", "place"),
    [
        ("train/NORMAL/masks/a.png", "train/NORMAL/masks"),
        ("train/NORMAL/leftMask/a.png", "train/NORMAL/leftMask"),
        ("train/NORMAL/Lung Masks/a.png", "train/NORMAL/Lung Masks"),
        ("train/masks/NORMAL/a.png", "train/masks/NORMAL"),
        ("masks/train/NORMAL/a.png", "masks/train/NORMAL"),
        ("NORMAL/masks/train/a.png", "NORMAL/masks/train"),
        ("train/NORMAL/a_mask.png", "train/NORMAL"),
        ("train/NORMAL/a-seg.png", "train/NORMAL"),
    ],
)
def test_masks_are_left_out_with_a_remark(mask: str, place: str) -> None:
    assert names_in("train/NORMAL/a.png", mask) == {"train/NORMAL/a.png"}
    assert remarks_of("train/NORMAL/a.png", mask) == f"left out masks: {place} (1 file)"


def test_a_name_like_a_mask_alone_is_an_image() -> None:
    assert names_in("train/NORMAL/gas_mask.png", "train/NORMAL/b.png") == {
        "train/NORMAL/gas_mask.png",
        "train/NORMAL/b.png",
    }


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *(("Pneumonia-Bacterial", "PNEUMONIA"), ("Bacterial Pneumonia", "PNEUMONIA"), ("viral_pneumonia", "PNEUMONIA")),
        *(("PneumoniaVirus", "PNEUMONIA"), ("1_pneumonia", "PNEUMONIA"), ("0 - Normal", "NORMAL")),
    ],
)
def test_other_spellings_of_a_class_are_read_with_a_remark(folder: str, name: str) -> None:
    assert names_in(f"train/{folder}/a.png") == {f"train/{name}/{folder}/a.png"}
    assert remarks_of(f"train/{folder}/a.png") == f"read {folder} as {name}"


def test_the_kind_comes_from_a_class_folder() -> None:
    """This holds for files whose names give no kind."""
    layout = find_layout(["train/Viral Pneumonia/1.png", "train/PNEUMONIA/bacterial/1.png", "train/Normal/1.png"])
    assert {example.name.split("/")[-2]: example.kind for example in layout.examples} == {
        "Viral Pneumonia": "viral",
        "bacterial": "bacterial",
        "NORMAL": "normal",
    }


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *(("Training", "train"), ("train_images", "train"), ("Train Set", "train"), ("TestData", "test")),
        *(("testing", "test"), ("valid", "val"), ("Validation", "val"), ("01_test", "test")),
    ],
)
def test_other_spellings_of_a_split_are_read(folder: str, split: str) -> None:
    assert names_in(f"{folder}/NORMAL/a.png", only_split="test") == {f"{split}/NORMAL/a.png"}


def test_a_data_set_named_like_a_class_is_read() -> None:
    assert names_in("pneumonia/train/NORMAL/a.png", "pneumonia/train/PNEUMONIA/b.png") == {
        "train/NORMAL/a.png",
        "train/PNEUMONIA/b.png",
    }
    assert names_in("pneumonia/NORMAL/a.png", "pneumonia/PNEUMONIA/b.png", only_split="test") == {
        "test/NORMAL/a.png",
        "test/PNEUMONIA/b.png",
    }


def test_class_folders_of_one_name_at_two_levels_are_read() -> None:
    assert names_in("NORMAL/NORMAL/a.png", only_split="test") == {"test/NORMAL/NORMAL/a.png"}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("train/NORMAL/PNEUMONIA/a.png", "class .* is in NORMAL and PNEUMONIA"),
        ("NORMAL/Viral Pneumonia/train/a.png", "class .* is in NORMAL and PNEUMONIA"),
        ("train/NORMAL/test/a.png", "split .* is in train and test"),
        ("NORMAL/train/validation/a.png", "split .* is in train and val"),
    ],
)
def test_an_image_in_two_classes_or_splits_is_refused(path: str, named: str) -> None:
    with pytest.raises(DataError, match=f"Expected one {named}"):
        find_layout(["train/NORMAL/b.png", path])


def test_images_that_only_a_nested_copy_has_are_named() -> None:
    paths = ["c/train/NORMAL/a.png", "c/c/train/NORMAL/a.png", "c/c/train/NORMAL/b.png"]
    assert remarks_of(*paths) == "left out c/train/NORMAL (1 file): outside of the splits of this data set"


def test_splits_in_two_data_sets_are_refused() -> None:
    with pytest.raises(DataError, match="found 2 side by side, in a and b/c"):
        find_layout(["a/train/NORMAL/x.png", "b/c/test/NORMAL/x.png"])


def test_images_without_a_split_beside_splits_are_named() -> None:
    remark = "left out NORMAL (1 file): outside of the splits of this data set"
    assert remarks_of("train/NORMAL/a.png", "NORMAL/b.png", only_split="test") == remark


@pytest.mark.parametrize(
    "file",
    ["labels.csv", "train/labels.xlsx", "train/NORMAL/labels.csv", "train/NORMAL/README.md", "train/NORMAL/DICOMDIR"],
)
def test_tables_and_texts_are_no_images(file: str) -> None:
    assert names_in("train/NORMAL/a.png", file) == {"train/NORMAL/a.png"}
    assert remarks_of("train/NORMAL/a.png", file) == f"left out 1 file of another kind, such as {file}"


@pytest.mark.parametrize(
    ("paths", "advice"),
    [
        (
            ["stage_2_train_images/a.dcm", "stage_2_test_images/b.dcm", "stage_2_train_labels.csv"],
            r"the table stage_2_train_labels.csv names no images, or no finding of the task; name its columns",
        ),
        (["images_001/images/a.png", "Data_Entry_2017.csv"], r"the table Data_Entry_2017.csv names no images"),
        (["train/patient00001/study1/view1_frontal.jpg", "train.csv"], r"the table train.csv names no images"),
        (["chest_xray/train.zip", "chest_xray/test.zip"], "unpack chest_xray/train.zip first"),
    ],
    ids=["RSNA", "NIH", "CheXpert", "zips"],
)
def test_a_data_set_without_class_folders_is_refused_with_advice(paths: list[str], advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        find_layout(paths)


@pytest.mark.parametrize(
    "path", ["train\\NORMAL\\a.png", "./train/NORMAL/a.png", "/train/NORMAL/a.png", "C:\\x\\train\\NORMAL\\a.png"]
)
def test_windows_and_absolute_paths_are_read(path: str) -> None:
    assert find_layout([path]).paths == {"train/NORMAL/a.png": path}


def test_a_path_out_and_back_is_read_by_its_end() -> None:
    """And one that leads out of the data set is left out with a remark."""
    layout = find_layout(["train/NORMAL/../PNEUMONIA/a.png", "train/NORMAL/b.png", "../../train/NORMAL/c.png"])
    assert set(layout.paths) == {"train/PNEUMONIA/a.png", "train/NORMAL/b.png"}
    assert layout.left_out == ("../../train/NORMAL/c.png",)


FOLDERS = [
    "train",
    "Testing",
    "val",
    "NORMAL",
    "normal",
    "PNEUMONIA",
    "Viral Pneumonia",
    "COVID",
    "images",
    "masks",
    "set",
]
PATHS = st.lists(st.sampled_from(FOLDERS), max_size=5).map(lambda folders: "/".join((*folders, "x.png")))


@given(st.lists(PATHS, min_size=1, max_size=12), st.sampled_from([None, "test"]))
def test_an_image_has_the_split_and_class_of_its_folders(paths: list[str], only_split: str | None) -> None:
    try:
        layout = find_layout(paths, only_split=only_split)
    except DataError:
        return
    for example in layout.examples:
        folders = layout.paths[example.name].split("/")[:-1]
        splits = {split for folder in folders if (split := split_of(folder))}
        assert example.split in (splits or {only_split})
        assert example.label in {label_of(folder, default_task()) for folder in folders}
    masked = ["masks" in layout.paths[example.name].split("/") for example in layout.examples]
    assert all(masked) or not any(masked)
    # What is neither read nor left out is the copy of an image in a layout nested in itself.
    for path in set(paths) - set(layout.paths.values()) - set(layout.left_out):
        assert any(path.endswith(f"/{other}") for other in {*paths, *layout.left_out} - {path})


def test_a_training_folder_given_for_evaluation_is_reported(tmp_path: Path) -> None:
    files = {f"{name}/a{at}.png": image(at) for at, name in enumerate(("NORMAL", "PNEUMONIA"))}
    dataset = opened(folder_of(tmp_path / "train", files), require=("test",))
    assert dataset.notice == "train: its name says train, but all of it is taken as test."
    assert opened(folder_of(tmp_path / "ward", files), require=("test",)).notice is None
