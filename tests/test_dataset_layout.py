import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungline.datasets.layout import find_layout
from lungline.errors import DataError


def names_in(*paths: str, only_split: str | None = None) -> set[str]:
    return {example.name for example in find_layout(paths, only_split=only_split).examples}


def test_it_may_be_in_any_folders() -> None:
    assert names_in("a/b c/train/NORMAL/x.png") == {"train/NORMAL/x.png"}


def test_case_and_synonyms_of_val_do_not_matter() -> None:
    names = names_in("Train/normal/x.png", "VALID/Pneumonia/y.png", "test/NORMAL/z.PNG")
    assert names == {"train/NORMAL/x.png", "val/PNEUMONIA/y.png", "test/NORMAL/z.PNG"}
    assert names_in("validation/NORMAL/x.png") == {"val/NORMAL/x.png"}


def test_folders_below_a_class_are_part_of_the_name() -> None:
    assert names_in("train/NORMAL/site 1/x.png") == {"train/NORMAL/site 1/x.png"}


def test_the_outermost_of_nested_copies_counts_once() -> None:
    layout = find_layout(
        ["chest_xray/chest_xray/train/NORMAL/x.png", "chest_xray/train/NORMAL/x.png", "chest_xray/__MACOSX/._x"]
    )
    assert layout.paths == {"train/NORMAL/x.png": "chest_xray/train/NORMAL/x.png"}
    assert layout.left_out == ()


@pytest.mark.parametrize(
    "litter",
    [".DS_Store", "train/NORMAL/.DS_Store", "__MACOSX/train/NORMAL/x.png", "train/NORMAL/Thumbs.db", ".git/x"],
)
def test_litter_and_hidden_files_are_skipped(litter: str) -> None:
    layout = find_layout(["train/NORMAL/x.png", litter])
    assert len(layout.examples) == 1
    assert layout.left_out == ()


def test_files_outside_of_the_layout_are_listed() -> None:
    layout = find_layout(["train/NORMAL/x.png", "README.md", "train/COVID/y.png"])
    assert layout.left_out == ("README.md", "train/COVID/y.png")


def test_class_folders_alone_are_enough_for_one_split() -> None:
    assert names_in("x/NORMAL/a.png", only_split="test") == {"test/NORMAL/a.png"}


def test_two_data_sets_side_by_side_are_refused() -> None:
    with pytest.raises(DataError, match="Expected one data set; found 2 side by side, in a and b"):
        find_layout(["a/train/NORMAL/x.png", "b/train/NORMAL/x.png"])


def test_two_folders_for_one_class_are_refused() -> None:
    with pytest.raises(DataError, match=r"found both Train/NORMAL/x.png and train/NORMAL/x.png"):
        find_layout(["Train/NORMAL/x.png", "train/NORMAL/x.png"])


def test_a_wrong_layout_is_refused_with_what_was_found() -> None:
    expected = r"Expected images in \[anything/\]\{train,val,test\}/\{NORMAL,PNEUMONIA\}/; found 2 files in images\."
    with pytest.raises(DataError, match=expected):
        find_layout(["images/a.png", "images/b.png"])
    with pytest.raises(DataError, match="found no files"):
        find_layout([])


@given(st.lists(st.text(alphabet="trainNORML/.vsePU", max_size=30), max_size=20))
def test_any_paths_give_a_layout_or_a_refusal(paths: list[str]) -> None:
    try:
        layout = find_layout(paths)
    except DataError:
        return
    assert set(layout.paths.values()) <= set(paths)
