import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lungline.errors import DataError
from lungline.imaging.decoding import decode
from tests.support.small_datasets import arrays, npz, opened


def test_arrays_are_read_as_png_files(tmp_path: Path) -> None:
    content = arrays()
    dataset = opened(npz(tmp_path / "small.npz", content))
    assert len(dataset.examples) == 18
    assert {example.patient for example in dataset.examples} == {None}
    example = dataset.of("val")[3]
    assert (example.name, example.label) == ("val/PNEUMONIA/00003.png", 1)
    assert np.array_equal(decode(dataset.read(example)).pixels, content["val_images"][3])


def test_colour_arrays_are_taken(tmp_path: Path) -> None:
    content = arrays()
    content["train_images"] = np.repeat(content["train_images"][..., None], 3, axis=3)
    dataset = opened(npz(tmp_path / "small.npz", content))
    assert decode(dataset.read(dataset.of("train")[0])).colour == 0


def test_a_missing_val_is_cut(tmp_path: Path) -> None:
    assert len(opened(npz(tmp_path / "x.npz", arrays(20, splits=("train", "test")))).of("val")) == 4


def test_only_a_test_split_serves_evaluation(tmp_path: Path) -> None:
    assert len(opened(npz(tmp_path / "x.npz", arrays(splits=("test",))), require=("test",)).examples) == 6


def test_columns_first_and_wide_labels_are_taken(tmp_path: Path) -> None:
    content = arrays()
    turned = {name: np.asfortranarray(array) for name, array in content.items()}
    turned["test_labels"] = turned["test_labels"].reshape(-1).astype(np.int64)
    assert opened(npz(tmp_path / "a.npz", content)).digest == opened(npz(tmp_path / "b.npz", turned)).digest


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("test_images", np.zeros((6, 28, 28), np.float32), "test_images: expected uint8"),
        ("test_images", np.zeros((6, 28), np.uint8), "found uint8 of shape"),
        ("test_images", np.zeros((6, 28, 28, 4), np.uint8), "test_images: expected uint8"),
        ("test_labels", np.zeros((5, 1), np.uint8), "test_labels: expected 6 integers"),
        ("test_labels", np.full((6, 1), 2, np.uint8), "test_labels: expected 6 integers 0 .* or 1 .*; found 2 to 2"),
        ("test_labels", np.eye(6, 14, dtype=np.uint8), r"found uint8 of shape \(6, 14\)"),
        ("test_labels", np.zeros((2, 3), np.uint8), r"found uint8 of shape \(2, 3\)"),
        ("test_labels", np.array(["NORMAL"] * 6), "found <U6 of shape"),
        ("test_labels", np.uint8(1), r"found uint8 of shape \(\)"),
        ("test_images", np.zeros((6, 1, 28, 28), np.uint8), "test_images: expected uint8"),
        ("test_images", np.zeros((6, 0, 28), np.uint8), r"found uint8 of shape \(6, 0, 28\)"),
        ("test_images", np.zeros((6, 28, 28), np.uint16), "test_images: expected uint8"),
        ("test_labels", np.zeros((6, 1), np.float32), "test_labels: expected 6 integers"),
        ("test_labels", np.array([{}] * 6, dtype=object), "cannot be read as an .npz"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, name: str, array: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        opened(npz(tmp_path / "x.npz", arrays() | {name: array}))


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (("x_train", "y_train"), "x_train, y_train"),
        (("train_labels", "test_labels"), "train_labels, test_labels"),
        (("set/train_images", "set/train_labels"), "set/train_images, set/train_labels"),
        (("TRAIN_IMAGES",), "TRAIN_IMAGES"),
    ],
)
def test_arrays_of_other_names_are_refused(tmp_path: Path, names: tuple[str, ...], listed: str) -> None:
    content = {name: np.zeros((6, 28, 28), np.uint8) for name in names}
    expected = rf"expected arrays \{{train,val,test\}}_\{{images,labels\}}; found {listed}\."
    with pytest.raises(DataError, match=expected):
        opened(npz(tmp_path / "x.npz", content))


def test_true_and_false_are_labels(tmp_path: Path) -> None:
    content = arrays()
    content["test_labels"] = content["test_labels"].astype(bool)
    assert [example.label for example in opened(npz(tmp_path / "x.npz", content)).of("test")] == [0, 1] * 3


def test_labels_are_needed(tmp_path: Path) -> None:
    content = arrays()
    del content["val_labels"]
    with pytest.raises(DataError, match=r"cannot be read as an .npz: .*val_labels"):
        opened(npz(tmp_path / "x.npz", content))


def test_a_huge_header_is_refused_without_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(header, shape)  # pyright: ignore[reportArgumentType] - its stub lags
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("test_images.npy", header.getvalue())
    with pytest.raises(DataError, match=r"cannot be read as an .npz: test_images holds"):
        opened(tmp_path / "x.npz", require=("test",))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"junk", b"\x93NUMPY\x01\0\xff\xff", b"\x93NUMPY\x09\0v\0{}", b"\x93NUMPY\x01\0\x01\0("),
        b"\x93NUMPY\x01\0\x3d\0{'descr': '|u1', 'fortran_order': False, 'shape': (6, 28.0), }",
        b"\x93NUMPY\x01\0\x3b\0{'descr': '|u1', 'fortran_order': False, 'shape': (6L,28), }",
    ],
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("test_images.npy", content)
    with pytest.raises(DataError, match=r"cannot be read as an .npz"):
        opened(tmp_path / "x.npz", require=("test",))


def test_an_array_that_ends_early_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, arrays()["test_images"])
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("test_images.npy", buffer.getvalue()[:-1])
    with pytest.raises(DataError, match="does not have the"):
        opened(tmp_path / "x.npz", require=("test",))
