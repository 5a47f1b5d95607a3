import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lungline.datasets.dataset import SPLITS, Dataset, Example, patient_of
from lungline.datasets.prepared import Prepared, prepare
from lungline.errors import DataError
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.imaging.preparation import Preparation
from lungline.task.reading import default_task
from tests.support.small_datasets import folder_of, image, opened, small_set


def prepare_set(tmp_path: Path, files: dict[str, bytes], **arguments: Any) -> Prepared:
    return prepare(opened(folder_of(tmp_path / "set", files)), Preparation(32), tmp_path / "out", **arguments)


def test_pixels_rows_and_facts_belong_together(tmp_path: Path) -> None:
    files = small_set()
    prepared = prepare_set(tmp_path, files)
    assert prepared.pixels.shape == (12, 32, 32)
    for row, pixels in zip(prepared.index, prepared.pixels, strict=True):
        decoded = decode(files[row.name])
        assert np.array_equal(pixels, Preparation(32).resize(decoded))
        assert row.sha256 == hashlib.sha256(files[row.name]).hexdigest()
        assert (row.bytes, row.width, row.height, row.format) == (len(files[row.name]), 50, 40, "png")
        assert row.mean == pytest.approx(decoded.pixels.mean(), abs=0.01)
        assert row.std == pytest.approx(decoded.pixels.std(), abs=0.01)
        assert (row.low, row.high, row.error) == (decoded.pixels.min(), decoded.pixels.max(), "")
        assert row.patient == patient_of(row.name)


def test_it_loads_as_it_was_written(tmp_path: Path) -> None:
    made = prepare_set(tmp_path, small_set())
    loaded = Prepared.load(tmp_path / "out")
    assert loaded.index == made.index
    assert loaded.preparation == Preparation(32)
    assert loaded.digest == opened(tmp_path / "set").digest
    assert (loaded.name, loaded.synthetic, loaded.notice) == ("set", False, None)
    assert loaded.counts == {split: dict.fromkeys(default_task().names, 2) for split in SPLITS}
    assert loaded.patients == dict.fromkeys(SPLITS, 4)


def test_a_split_gives_pixels_and_labels_in_order(tmp_path: Path) -> None:
    prepared = prepare_set(tmp_path, small_set())
    pixels, labels = prepared.of("train")
    assert pixels.shape == (4, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1]
    assert [row.label for row in prepared.rows("train")] == [0, 0, 1, 1]


def test_an_image_that_cannot_be_decoded_has_an_error(tmp_path: Path) -> None:
    files = small_set() | {"train/NORMAL/broken.png": b"not an image", "val/NORMAL/empty.png": b""}
    prepared = prepare_set(tmp_path, files)
    broken = {row.name: row for row in prepared.index if row.error}
    assert set(broken) == {"train/NORMAL/broken.png", "val/NORMAL/empty.png"}
    assert (
        broken["train/NORMAL/broken.png"].error
        == "The file's content is not an image; expected JPEG, PNG, TIFF, BMP, WebP or DICOM."
    )
    assert broken["train/NORMAL/broken.png"].bytes == 12
    assert not prepared.pixels[prepared.index.index(broken["train/NORMAL/broken.png"])].any()
    assert len(prepared.of("train")[0]) == len(prepared.of("val")[0]) == 4


def test_a_file_that_cannot_be_read_has_an_error(tmp_path: Path) -> None:
    dataset = opened(folder_of(tmp_path / "set", small_set()))
    (tmp_path / "set/test/NORMAL/person8_virus_0.png").unlink()
    prepared = prepare(dataset, Preparation(32), tmp_path / "out")
    (row,) = (row for row in prepared.index if row.error)
    assert (row.name, row.sha256) == ("test/NORMAL/person8_virus_0.png", "")
    assert "No such file" in row.error


def test_the_limits_are_those_of_serving(tmp_path: Path) -> None:
    prepared = prepare_set(tmp_path, small_set(), limits=Limits(min_side=41))
    assert all("shortest side must have at least 41" in row.error for row in prepared.index)


def test_originals_of_val_and_test_are_kept_byte_by_byte(tmp_path: Path) -> None:
    files = small_set() | {"test/NORMAL/a broken.png": b"not an image"}
    prepared = prepare_set(tmp_path, files)
    for split in ("val", "test"):
        originals = list(prepared.originals(split))
        assert [row for row, _ in originals] == list(prepared.rows(split))
        assert all(data == files[row.name] for row, data in originals)
    with pytest.raises(DataError, match="does not have the originals of train"):
        list(prepared.originals("train"))


def test_the_same_data_give_the_same_files(tmp_path: Path) -> None:
    dataset = opened(folder_of(tmp_path / "set", small_set(each=4)))
    for folder in ("one", "two"):
        prepare(dataset, Preparation(32), tmp_path / folder)
    for name in ("index.csv", "pixels.npy", "originals.zip", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_preparing_again_replaces_the_folder(tmp_path: Path) -> None:
    prepare_set(tmp_path, small_set(each=4))
    smaller = opened(folder_of(tmp_path / "other", small_set()))
    assert len(prepare(smaller, Preparation(32), tmp_path / "out").index) == 12


def test_progress_is_reported_for_each_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepare_set(tmp_path, small_set(), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 12) for done in range(1, 13)]


def test_odd_names_survive(tmp_path: Path) -> None:
    odd = {'train/NORMAL/a, "b"\n=1+1.png': image(70), "test/NORMAL/Ünï çode ☃.png": image(71)}
    files = small_set() | odd
    folder = folder_of(tmp_path / "set", files)
    no_text = os.fsencode(folder) + b"/val/NORMAL/\xff\xfe.png"
    Path(os.fsdecode(no_text)).write_bytes(image(72))
    prepared = prepare(opened(folder), Preparation(32), tmp_path / "out")
    assert set(odd) <= {row.name for row in prepared.index}
    assert not [row for row in prepared.index if row.error]
    assert Prepared.load(tmp_path / "out").index == prepared.index


@pytest.mark.parametrize("name", ["index.csv", "pixels.npy", "dataset.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    prepare_set(tmp_path, small_set())
    file = tmp_path / "out" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: -200 if damage == "cut" else 0])
    with pytest.raises(DataError, match=r"is not a prepared data set|is damaged"):
        Prepared.load(tmp_path / "out")


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_the_digest_does_not_depend_on_order(order: list[int]) -> None:
    files = list(small_set().items())
    dataset = Dataset(
        "memory",
        tuple(Example.named(files[at][0], files[at][0].split("/")[0], int("PNEU" in files[at][0])) for at in order),
        lambda example: dict(files)[example.name],
    )
    assert dataset.digest == replace(dataset, examples=dataset.examples[::-1]).digest
