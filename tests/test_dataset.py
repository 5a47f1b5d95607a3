import hashlib
import io
import os
import random
import shutil
import socket
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from lungline.datasets import opening as dataset_module
from lungline.datasets import opening as download_module
from lungline.datasets.dataset import cut_validation, kind_of, patient_of
from lungline.datasets.layout import find_layout
from lungline.datasets.opening import CLASSES, SPLITS, Dataset, Example, Prepared, open_dataset, prepare
from lungline.errors import DataError, StorageUnavailable
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.imaging.preparation import Preparation
from lungline.settings import Settings
from tests.support.object_store import running_store

SETTINGS = Settings(offline=True)
REAL = Path(__file__).parents[2] / "shared/data/chest_xray.zip"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what was downloaded or set before, or leaves something for others."""
    for name in [name for name in os.environ if name.startswith("LUNGLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lungline"


def image(seed: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def small_set(splits: tuple[str, ...] = SPLITS, each: int = 2) -> dict[str, bytes]:
    """Files of a small data set by path."""
    names = [(split, name, at) for split in splits for name in CLASSES for at in range(each)]
    return {f"{split}/{name}/person{seed}_virus_{at}.png": image(seed) for seed, (split, name, at) in enumerate(names)}


def folder_of(folder: Path, files: dict[str, bytes], root: str = "") -> Path:
    for path, data in files.items():
        file = folder / root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def zip_of(file: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file


def opened(spec: Path | str, **arguments: Any) -> Dataset:
    return open_dataset(str(spec), settings=SETTINGS, **arguments)


def named(dataset: Dataset, name: str) -> Example:
    return next(example for example in dataset.examples if example.name == name)


def names(dataset: Dataset) -> set[str]:
    return {example.name for example in dataset.examples}


class TestNames:
    @pytest.mark.parametrize(
        ("name", "patient"),
        [
            ("train/PNEUMONIA/person123_bacteria_4.jpeg", "person123"),
            ("person1_virus_11.jpeg", "person1"),
            ("IM-0115-0001.jpeg", "IM-0115"),
            ("IM-0115-0001-0002.jpeg", "IM-0115"),
            ("NORMAL2-IM-0527-0001.jpeg", "NORMAL2-IM-0527"),
            ("00012345_000.png", None),
            ("person.jpeg", None),
            ("a person12_x.jpeg", None),
        ],
    )
    def test_the_patient_comes_from_the_name(self, name: str, patient: str | None) -> None:
        assert patient_of(name) == patient

    @pytest.mark.parametrize(
        ("name", "label", "kind"),
        [
            ("person1_bacteria_2.jpeg", 1, "bacterial"),
            ("person1_VIRUS_2.jpeg", 1, "viral"),
            ("x.jpeg", 1, "unknown"),
            ("person1_virus_2.jpeg", 0, "normal"),
            ("bacteria/x.jpeg", 1, "unknown"),
        ],
    )
    def test_the_kind_comes_from_label_and_name(self, name: str, label: int, kind: str) -> None:
        assert kind_of(name, label) == kind


class TestLayout:
    def found(self, *paths: str, only_split: str | None = None) -> set[str]:
        return {example.name for example in find_layout(paths, only_split=only_split).examples}

    def test_it_may_lie_under_any_folders(self) -> None:
        assert self.found("a/b c/train/NORMAL/x.png") == {"train/NORMAL/x.png"}

    def test_case_and_other_names_of_val_do_not_matter(self) -> None:
        found = self.found("Train/normal/x.png", "VALID/Pneumonia/y.png", "test/NORMAL/z.PNG")
        assert found == {"train/NORMAL/x.png", "val/PNEUMONIA/y.png", "test/NORMAL/z.PNG"}
        assert self.found("validation/NORMAL/x.png") == {"val/NORMAL/x.png"}

    def test_folders_below_a_class_are_part_of_the_name(self) -> None:
        assert self.found("train/NORMAL/site 1/x.png") == {"train/NORMAL/site 1/x.png"}

    def test_the_outermost_of_nested_copies_counts_once(self) -> None:
        layout = find_layout(
            ["chest_xray/chest_xray/train/NORMAL/x.png", "chest_xray/train/NORMAL/x.png", "chest_xray/__MACOSX/._x"]
        )
        assert layout.paths == {"train/NORMAL/x.png": "chest_xray/train/NORMAL/x.png"}
        assert layout.left_out == ()

    @pytest.mark.parametrize(
        "litter",
        [".DS_Store", "train/NORMAL/.DS_Store", "__MACOSX/train/NORMAL/x.png", "train/NORMAL/Thumbs.db", ".git/x"],
    )
    def test_what_systems_leave_behind_is_passed_over(self, litter: str) -> None:
        layout = find_layout(["train/NORMAL/x.png", litter])
        assert len(layout.examples) == 1
        assert layout.left_out == ()

    def test_files_that_fit_nowhere_are_told(self) -> None:
        layout = find_layout(["train/NORMAL/x.png", "README.md", "train/COVID/y.png"])
        assert layout.left_out == ("README.md", "train/COVID/y.png")

    def test_class_folders_alone_are_enough_for_one_split(self) -> None:
        assert self.found("x/NORMAL/a.png", only_split="test") == {"test/NORMAL/a.png"}

    def test_two_data_sets_side_by_side_are_refused(self) -> None:
        with pytest.raises(DataError, match="Expected one data set; found 2 side by side, in a and b"):
            find_layout(["a/train/NORMAL/x.png", "b/train/NORMAL/x.png"])

    def test_two_folders_that_mean_the_same_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"found both Train/NORMAL/x.png and train/NORMAL/x.png"):
            find_layout(["Train/NORMAL/x.png", "train/NORMAL/x.png"])

    def test_a_wrong_layout_is_told_with_what_was_found(self) -> None:
        expected = (
            r"Expected images in \[anything/\]\{train,val,test\}/\{NORMAL,PNEUMONIA\}/; found 2 files in images\."
        )
        with pytest.raises(DataError, match=expected):
            find_layout(["images/a.png", "images/b.png"])
        with pytest.raises(DataError, match="found no files"):
            find_layout([])

    @given(st.lists(st.text(alphabet="trainNORML/.vsePU", max_size=30), max_size=20))
    def test_any_paths_give_a_layout_or_a_refusal(self, paths: list[str]) -> None:
        try:
            layout = find_layout(paths)
        except DataError:
            return
        assert set(layout.paths.values()) <= set(paths)


class TestFolderAndZip:
    def test_they_give_the_same_data_set(self, tmp_path: Path) -> None:
        files = small_set()
        here = opened(folder_of(tmp_path / "folder", files))
        there = opened(zip_of(tmp_path / "set.zip", {f"any/where/{path}": data for path, data in files.items()}))
        assert here.digest == there.digest
        assert set(here.examples) == set(there.examples)
        assert {example.name: there.read(example) for example in there.examples} == files

    def test_links_to_folders_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "set", small_set())
        (folder / "train/NORMAL").rename(tmp_path / "elsewhere")
        (folder / "train/NORMAL").symlink_to(tmp_path / "elsewhere")
        (folder / "test/NORMAL/again").symlink_to(folder)
        assert names(opened(folder)) == set(small_set())

    def test_their_names_are_safe_to_show(self, tmp_path: Path) -> None:
        assert opened(folder_of(tmp_path / "ward 7", small_set())).name == "ward 7"
        assert opened(zip_of(tmp_path / "set.zip", small_set())).name == "set.zip"

    def test_an_unknown_extension_does_not_matter(self, tmp_path: Path) -> None:
        assert len(opened(zip_of(tmp_path / "set.bin", small_set())).examples) == 12

    def test_files_outside_of_the_layout_are_noticed(self, tmp_path: Path) -> None:
        dataset = opened(folder_of(tmp_path / "set", small_set() | {"notes.txt": b"", "train/COVID/x.png": b""}))
        assert dataset.notice is not None
        assert "2 files outside of" in dataset.notice
        assert "notes.txt" in dataset.notice

    def test_a_member_whose_path_climbs_out_is_only_a_name(self, tmp_path: Path) -> None:
        file = zip_of(tmp_path / "set.zip", small_set() | {"../../train/NORMAL/evil.png": b"x"})
        assert len(opened(file).examples) == 12
        assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]

    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_a_file_larger_than_the_limit_is_not_read(self, tmp_path: Path, kind: str) -> None:
        files = small_set() | {"train/NORMAL/bomb.png": bytes(2_000_000)}
        spec = folder_of(tmp_path / "set", files) if kind == "folder" else zip_of(tmp_path / "set.zip", files)
        dataset = open_dataset(str(spec), settings=Settings(image_max_bytes=1_000_000))
        with pytest.raises(DataError, match=r"train/NORMAL/bomb.png has more than 1,000,000 bytes"):
            dataset.read(named(dataset, "train/NORMAL/bomb.png"))

    def test_a_damaged_member_is_told_by_name(self, tmp_path: Path) -> None:
        file = tmp_path / "set.zip"
        with zipfile.ZipFile(file, "w") as archive:
            for path, data in small_set().items():
                archive.writestr(path, data)
        content = file.read_bytes()
        first = content.index(b"IDAT") + 20
        file.write_bytes(content[:first] + b"\0" * 20 + content[first + 20 :])
        dataset = opened(file)
        with pytest.raises(DataError, match=r"train/NORMAL/person0_virus_0.png cannot be read from the zip"):
            dataset.read(named(dataset, "train/NORMAL/person0_virus_0.png"))

    def test_a_file_that_vanished_is_told_by_name(self, tmp_path: Path) -> None:
        dataset = opened(folder_of(tmp_path / "set", small_set()))
        (tmp_path / "set/train/NORMAL/person0_virus_0.png").unlink()
        with pytest.raises(DataError, match=r"person0_virus_0.png cannot be read: No such file"):
            dataset.read(named(dataset, "train/NORMAL/person0_virus_0.png"))

    def test_threads_may_read_one_zip(self, tmp_path: Path) -> None:
        files = small_set(each=20)
        dataset = opened(zip_of(tmp_path / "set.zip", files))
        assert dataset.digest == opened(folder_of(tmp_path / "set", files)).digest

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b"", "cannot be read as one"), (b"hello", "File is not a zip file"), (b"PK\x03\x04" + bytes(50), "zip")],
    )
    def test_a_file_that_is_no_zip_is_refused_in_one_sentence(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "set.zip").write_bytes(content)
        with pytest.raises(DataError, match=said):
            opened(tmp_path / "set.zip")

    def test_nothing_there_is_told_with_what_may_be_given(self) -> None:
        with pytest.raises(DataError, match=r"There is no data at nowhere; expected a folder, a zip, an .npz"):
            opened("nowhere")


class TestSplits:
    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("label", [0, 1])
    def test_an_empty_class_is_told(self, tmp_path: Path, split: str, label: int) -> None:
        files = {path: data for path, data in small_set().items() if not path.startswith(f"{split}/{CLASSES[label]}")}
        with pytest.raises(DataError, match=f"expected both classes in {split}; found no {CLASSES[label]} image"):
            opened(folder_of(tmp_path / "set", files))

    def test_a_set_with_only_a_test_split_serves_evaluation(self, tmp_path: Path) -> None:
        dataset = opened(zip_of(tmp_path / "set.zip", small_set(("test",))), require=("test",))
        assert len(dataset.of("test")) == 4
        with pytest.raises(DataError, match="expected both classes in train"):
            opened(tmp_path / "set.zip")

    def test_class_folders_alone_serve_evaluation(self, tmp_path: Path) -> None:
        files = {path.removeprefix("test/"): data for path, data in small_set(("test",)).items()}
        dataset = opened(folder_of(tmp_path / "set", files), require=("test",))
        assert {example.split for example in dataset.examples} == {"test"}
        with pytest.raises(DataError, match="Expected images in"):
            opened(tmp_path / "set")

    def test_given_splits_are_never_changed(self, tmp_path: Path) -> None:
        files = small_set() | {"test/NORMAL/person0_virus_9.png": image(99)}
        dataset = opened(folder_of(tmp_path / "set", files))
        assert all(example.split == example.name.split("/")[0] for example in dataset.examples)
        assert {example.split for example in dataset.examples if example.patient == "person0"} == {"train", "test"}

    def test_a_missing_val_is_cut_from_train_by_patient(self, tmp_path: Path) -> None:
        files = {
            f"train/{name}/person{label}{patient:02d}_virus_{at}.png": image(patient)
            for label, name in enumerate(CLASSES)
            for patient in range(30)
            for at in range(3)
        }
        dataset = opened(folder_of(tmp_path / "set", files | small_set(("test",))))
        counts = Counter((example.split, example.label) for example in dataset.examples)
        assert counts["val", 0] == counts["val", 1] == 9
        patients = {split: {example.patient for example in dataset.of(split)} for split in ("train", "val")}
        assert not patients["train"] & patients["val"]
        assert opened(tmp_path / "set").digest == dataset.digest

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=60), st.integers(0, 2**32))
    def test_a_cut_keeps_patients_whole_and_leaves_training_each_class(
        self, owners: list[tuple[int, int]], seed: int
    ) -> None:
        examples = [
            Example(f"train/{label}/{at}", "train", label, f"person{owner}" if owner else None, "unknown")
            for at, (owner, label) in enumerate(owners)
        ]
        cut = cut_validation(examples)
        assert [example.name for example in cut] == [example.name for example in examples]
        split_of: dict[str, set[str]] = {}
        for example in cut:
            split_of.setdefault(example.patient or example.name, set()).add(example.split)
        assert all(len(splits) == 1 for splits in split_of.values())
        shuffled = examples.copy()
        random.Random(seed).shuffle(shuffled)
        assert set(cut_validation(shuffled)) == set(cut)

    def test_a_cut_hardly_moves_when_patients_are_added(self) -> None:
        few = [Example(f"train/0/{at}", "train", 0, f"person{at}", "normal") for at in range(1000)]
        more = [*few, *(Example(f"train/0/{at}", "train", 0, f"person{at}", "normal") for at in range(1000, 1100))]
        before = {example.name for example in cut_validation(few) if example.split == "val"}
        after = {example.name for example in cut_validation(more) if example.split == "val"}
        assert len(before) == 100
        assert len(before & after) > 90


class TestDigest:
    def test_the_order_does_not_matter(self, tmp_path: Path) -> None:
        dataset = opened(folder_of(tmp_path / "set", small_set()))
        assert replace(dataset, examples=dataset.examples[::-1]).digest == dataset.digest

    @pytest.mark.parametrize(
        "change",
        [
            lambda files: files | {"train/NORMAL/new.png": image(500)},
            lambda files: dict(list(files.items())[1:]),
            lambda files: files | {"train/NORMAL/person0_virus_0.png": image(501)},
            lambda files: {path.replace("virus_0", "virus_9"): data for path, data in files.items()},
        ],
        ids=["added", "removed", "changed", "renamed"],
    )
    def test_any_change_changes_it(
        self, tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]
    ) -> None:
        before = opened(folder_of(tmp_path / "before", small_set())).digest
        assert opened(folder_of(tmp_path / "after", change(small_set()))).digest != before

    def test_it_is_the_same_on_every_machine(self, tmp_path: Path) -> None:
        files = {path: path.encode() for path in small_set()}
        expected = hashlib.sha256(
            "\n".join(
                sorted(
                    "\0".join((path.split("/")[0], str(int("PNEU" in path)), path, hashlib.sha256(data).hexdigest()))
                    for path, data in files.items()
                )
            ).encode()
        ).hexdigest()
        assert opened(folder_of(tmp_path / "set", files)).digest == expected


def arrays(count: int = 3, size: int = 28, splits: tuple[str, ...] = SPLITS) -> dict[str, np.ndarray]:
    """The arrays of a small MedMNIST file."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for split in splits:
        made[f"{split}_images"] = rng.integers(0, 256, (2 * count, size, size)).astype(np.uint8)
        made[f"{split}_labels"] = np.tile([[0], [1]], (count, 1)).astype(np.uint8)
    return made


def npz(file: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(file, **content)  # pyright: ignore[reportArgumentType] - its stub takes names for options
    return file


class TestArrays:
    def test_they_are_read_as_images_that_the_decoder_takes(self, tmp_path: Path) -> None:
        content = arrays()
        dataset = opened(npz(tmp_path / "small.npz", content))
        assert len(dataset.examples) == 18
        assert {example.patient for example in dataset.examples} == {None}
        example = dataset.of("val")[3]
        assert (example.name, example.label) == ("val/PNEUMONIA/00003.png", 1)
        assert np.array_equal(decode(dataset.read(example)).pixels, content["val_images"][3])

    def test_colour_arrays_are_taken(self, tmp_path: Path) -> None:
        content = arrays()
        content["train_images"] = np.repeat(content["train_images"][..., None], 3, axis=3)
        dataset = opened(npz(tmp_path / "small.npz", content))
        assert decode(dataset.read(dataset.of("train")[0])).colour == 0

    def test_a_missing_val_is_cut(self, tmp_path: Path) -> None:
        assert len(opened(npz(tmp_path / "x.npz", arrays(20, splits=("train", "test")))).of("val")) == 4

    def test_only_a_test_split_serves_evaluation(self, tmp_path: Path) -> None:
        assert len(opened(npz(tmp_path / "x.npz", arrays(splits=("test",))), require=("test",)).examples) == 6

    def test_columns_first_and_wide_labels_are_taken(self, tmp_path: Path) -> None:
        content = arrays()
        turned = {name: np.asfortranarray(array) for name, array in content.items()}
        turned["test_labels"] = turned["test_labels"].reshape(-1).astype(np.int64)
        assert opened(npz(tmp_path / "a.npz", content)).digest == opened(npz(tmp_path / "b.npz", turned)).digest

    @pytest.mark.parametrize(
        ("name", "array", "said"),
        [
            ("test_images", np.zeros((6, 28, 28), np.float32), "test_images: expected uint8"),
            ("test_images", np.zeros((6, 28), np.uint8), "found uint8 of shape"),
            ("test_images", np.zeros((6, 28, 28, 4), np.uint8), "test_images: expected uint8"),
            ("test_labels", np.zeros((5, 1), np.uint8), "test_labels: expected 6 integers"),
            ("test_labels", np.full((6, 1), 2, np.uint8), "test_labels: expected 6 integers 0 .* or 1"),
            ("test_labels", np.zeros((6, 1), np.float32), "test_labels: expected 6 integers"),
            ("test_labels", np.array([{}] * 6, dtype=object), "cannot be read as an .npz"),
        ],
        ids=["float", "flat", "rgba", "count", "third-class", "float-labels", "pickled"],
    )
    def test_other_arrays_are_refused(self, tmp_path: Path, name: str, array: np.ndarray, said: str) -> None:
        with pytest.raises(DataError, match=said):
            opened(npz(tmp_path / "x.npz", arrays() | {name: array}))

    def test_labels_are_needed(self, tmp_path: Path) -> None:
        content = arrays()
        del content["val_labels"]
        with pytest.raises(DataError, match=r"cannot be read as an .npz: .*val_labels"):
            opened(npz(tmp_path / "x.npz", content))

    def test_a_header_that_claims_the_moon_is_refused_before_memory_is_taken(self, tmp_path: Path) -> None:
        header = io.BytesIO()
        shape = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(header, shape)  # pyright: ignore[reportArgumentType] - its stub lags
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("test_images.npy", header.getvalue())
        with pytest.raises(DataError, match=r"cannot be read as an .npz: test_images holds"):
            opened(tmp_path / "x.npz", require=("test",))

    @pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\0\xff\xff", b"\x93NUMPY\x09\0v\0{}"])
    def test_a_member_that_is_no_array_is_refused(self, tmp_path: Path, content: bytes) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("test_images.npy", content)
        with pytest.raises(DataError, match=r"cannot be read as an .npz"):
            opened(tmp_path / "x.npz", require=("test",))

    def test_an_array_that_ends_early_is_refused(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, arrays()["test_images"])
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("test_images.npy", buffer.getvalue()[:-1])
        with pytest.raises(DataError, match="another number of bytes"):
            opened(tmp_path / "x.npz", require=("test",))


class TestPhantoms:
    def test_they_are_marked_as_synthetic_and_say_so(self) -> None:
        dataset = opened("phantom:40")
        assert dataset.synthetic
        assert dataset.notice is not None
        assert "says nothing about patients" in dataset.notice

    @pytest.mark.parametrize("count", [20, 101, 1200])
    def test_there_are_as_many_as_asked_for(self, count: int) -> None:
        dataset = opened(f"phantom:{count}")
        assert len(names(dataset)) == count
        labels = Counter(example.label for example in dataset.examples)
        assert abs(labels[0] - labels[1]) <= 3
        assert abs(len(dataset.of("train")) - 0.7 * count) <= 1

    def test_the_default_is_1200(self) -> None:
        assert len(opened("phantom").examples) == 1200

    def test_no_patient_is_in_two_splits_and_some_have_several_pictures(self) -> None:
        splits: dict[str | None, set[str]] = {}
        for example in opened("phantom").examples:
            splits.setdefault(example.patient, set()).add(example.split)
        assert all(len(found) == 1 for found in splits.values())
        assert 400 < len(splits) < 900

    def test_kinds_are_known(self) -> None:
        kinds = Counter(example.kind for example in opened("phantom").examples)
        assert min(kinds["normal"], kinds["bacterial"], kinds["viral"]) > 100
        assert kinds["unknown"] == 0

    def test_the_same_phantom_is_drawn_every_time(self) -> None:
        first, second = opened("phantom:30"), opened("phantom:30")
        assert [first.read(example) for example in first.examples] == [
            second.read(example) for example in second.examples
        ]
        assert len({first.read(example) for example in first.examples}) == 30

    def test_their_digest_is_known_without_drawing_them(self, tmp_path: Path) -> None:
        start = time.process_time()
        dataset = opened("phantom:100000")
        digests = {opened(f"phantom:{count}").digest for count in (40, 41)} | {dataset.digest}
        assert len(digests) == 3
        assert time.process_time() - start < 5
        assert prepare(opened("phantom:40"), Preparation(32), tmp_path).digest == opened("phantom:40").digest

    @pytest.mark.parametrize("count", ["0", "19", "-5", "many", "1.5", "99999999"])
    def test_another_count_is_refused(self, count: str) -> None:
        with pytest.raises(DataError, match=r"Expected phantom:N with N from 20 to 1,000,000"):
            opened(f"phantom:{count}")


class TestObjectStore:
    def test_a_prefix_of_a_bucket_is_a_data_set(self, tmp_path: Path) -> None:
        files = small_set()
        (tmp_path / "store").mkdir()
        with running_store(tmp_path / "store", "images") as storage:
            for path, data in files.items():
                storage.put("images", f"sets/one/{path}", data)
            storage.put("images", "sets/one-more/train/NORMAL/x.png", b"of another set")
            settings = Settings(
                s3_endpoint=storage.endpoint,
                s3_access_key=storage._access_key,  # noqa: SLF001 - the fixture's credentials
                s3_secret_key=storage._secret_key,  # noqa: SLF001 - the fixture's credentials
            )
            dataset = open_dataset("s3://images/sets/one", settings=settings)
            assert dataset.name == "s3://images/sets/one"
            assert dataset.digest == opened(folder_of(tmp_path / "set", files)).digest
            with pytest.raises(DataError, match="found no files"):
                open_dataset("s3://images/nothing", settings=settings)

    def test_a_store_that_does_not_answer_is_told(self) -> None:
        settings = Settings(s3_endpoint=f"http://127.0.0.1:{closed_port()}", s3_access_key="x", s3_secret_key="y")  # pyright: ignore[reportArgumentType] - pydantic makes secrets of them
        with pytest.raises(StorageUnavailable):
            open_dataset("s3://images/sets", settings=settings)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def zenodo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small file of the right form, served by HTTP on this machine in place of the public record."""
    served = tmp_path / "zenodo"
    served.mkdir()
    file = npz(served / "pneumoniamnist_64.npz", arrays(20, 64))
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(download_module, "ZENODO", f"http://127.0.0.1:{server.server_port}/{{file}}?download=1")
    monkeypatch.setitem(download_module.FILES, 64, (file.name, digest))
    yield file
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
        pass


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "ZENODO", f"http://127.0.0.1:{closed_port()}/{{file}}")


class TestDownload:
    def test_it_happens_once(self, zenodo: Path, own_cache: Path) -> None:
        first = open_dataset("medmnist:64", settings=Settings())
        assert len(first.examples) == 120
        assert (own_cache / zenodo.name).exists()
        zenodo.unlink()
        assert open_dataset("medmnist:64", settings=Settings()).digest == first.digest
        assert first.name == "medmnist:64"

    def test_a_file_with_another_digest_is_refused(self, zenodo: Path) -> None:
        zenodo.write_bytes(b"changed on the way")
        with pytest.raises(DataError, match=r"could not be downloaded from zenodo.org"):
            open_dataset("medmnist:64", settings=Settings())

    def test_a_damaged_file_in_the_cache_is_downloaded_again(self, zenodo: Path, own_cache: Path) -> None:
        own_cache.mkdir(parents=True)
        (own_cache / zenodo.name).write_bytes(b"half a file")
        assert len(open_dataset("medmnist:64", settings=Settings()).examples) == 120

    @pytest.mark.usefixtures("no_internet")
    def test_without_internet_the_sentence_says_what_to_do(self) -> None:
        with pytest.raises(DataError, match="give a folder or zip of X-rays instead, or use phantom"):
            open_dataset("medmnist:64", settings=Settings())

    @pytest.mark.parametrize("size", ["", "32", "x"])
    def test_another_size_is_refused(self, size: str) -> None:
        with pytest.raises(DataError, match=r"one of 28, 64, 128, 224; found"):
            opened(f"medmnist:{size}")


class TestAuto:
    def test_the_setting_comes_first(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "mine", small_set())
        assert open_dataset(settings=Settings(data=str(folder))).name == "mine"

    @pytest.mark.usefixtures("zenodo")
    def test_else_a_download(self) -> None:
        dataset = open_dataset(settings=Settings())
        assert (dataset.name, dataset.synthetic) == ("medmnist:64", False)

    def test_a_cached_download_needs_no_network(self, zenodo: Path, own_cache: Path) -> None:
        own_cache.mkdir(parents=True)
        shutil.copy(zenodo, own_cache)
        assert open_dataset(settings=Settings(offline=True)).name == "medmnist:64"

    @pytest.mark.usefixtures("no_internet")
    def test_else_phantoms_that_say_why(self) -> None:
        dataset = open_dataset(settings=Settings())
        assert dataset.synthetic
        assert dataset.notice is not None
        assert "LUNGLINE_DATA is not set and PneumoniaMNIST could not be downloaded" in dataset.notice

    def test_offline_asks_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dataset_module, "download", lambda _: pytest.fail("it asked"))
        dataset = open_dataset(settings=Settings(offline=True))
        assert "downloads are off" in str(dataset.notice)


class TestPrepare:
    def prepared(self, tmp_path: Path, files: dict[str, bytes], **arguments: Any) -> Prepared:
        return prepare(opened(folder_of(tmp_path / "set", files)), Preparation(32), tmp_path / "out", **arguments)

    def test_pixels_rows_and_facts_belong_together(self, tmp_path: Path) -> None:
        files = small_set()
        prepared = self.prepared(tmp_path, files)
        assert prepared.pixels.shape == (12, 32, 32)
        for row, pixels in zip(prepared.index, prepared.pixels, strict=True):
            picture = decode(files[row.name])
            assert np.array_equal(pixels, Preparation(32).resize(picture))
            assert row.sha256 == hashlib.sha256(files[row.name]).hexdigest()
            assert (row.bytes, row.width, row.height, row.format) == (len(files[row.name]), 50, 40, "png")
            assert row.mean == pytest.approx(picture.pixels.mean(), abs=0.01)
            assert row.std == pytest.approx(picture.pixels.std(), abs=0.01)
            assert (row.low, row.high, row.error) == (picture.pixels.min(), picture.pixels.max(), "")
            assert row.patient == patient_of(row.name)

    def test_it_comes_back_from_disk_as_it_was(self, tmp_path: Path) -> None:
        made = self.prepared(tmp_path, small_set())
        loaded = Prepared.load(tmp_path / "out")
        assert loaded.index == made.index
        assert loaded.preparation == Preparation(32)
        assert loaded.digest == opened(tmp_path / "set").digest
        assert (loaded.name, loaded.synthetic, loaded.notice) == ("set", False, None)
        assert loaded.counts == {split: dict.fromkeys(CLASSES, 2) for split in SPLITS}
        assert loaded.patients == dict.fromkeys(SPLITS, 4)

    def test_a_split_gives_pixels_and_labels_in_order(self, tmp_path: Path) -> None:
        prepared = self.prepared(tmp_path, small_set())
        pixels, labels = prepared.of("train")
        assert pixels.shape == (4, 32, 32)
        assert labels.tolist() == [0, 0, 1, 1]
        assert [row.label for row in prepared.rows("train")] == [0, 0, 1, 1]

    def test_an_image_that_cannot_be_decoded_is_a_row_with_its_reason(self, tmp_path: Path) -> None:
        files = small_set() | {"train/NORMAL/broken.png": b"not an image", "val/NORMAL/empty.png": b""}
        prepared = self.prepared(tmp_path, files)
        broken = {row.name: row for row in prepared.index if row.error}
        assert set(broken) == {"train/NORMAL/broken.png", "val/NORMAL/empty.png"}
        assert (
            broken["train/NORMAL/broken.png"].error
            == "The file's content is not an image; expected JPEG, PNG, TIFF, BMP, WebP or DICOM."
        )
        assert broken["train/NORMAL/broken.png"].bytes == 12
        assert not prepared.pixels[prepared.index.index(broken["train/NORMAL/broken.png"])].any()
        assert len(prepared.of("train")[0]) == len(prepared.of("val")[0]) == 4

    def test_a_file_that_cannot_be_read_is_a_row_with_its_reason(self, tmp_path: Path) -> None:
        dataset = opened(folder_of(tmp_path / "set", small_set()))
        (tmp_path / "set/test/NORMAL/person8_virus_0.png").unlink()
        prepared = prepare(dataset, Preparation(32), tmp_path / "out")
        (row,) = (row for row in prepared.index if row.error)
        assert (row.name, row.sha256) == ("test/NORMAL/person8_virus_0.png", "")
        assert "No such file" in row.error

    def test_the_limits_are_those_of_serving(self, tmp_path: Path) -> None:
        prepared = self.prepared(tmp_path, small_set(), limits=Limits(min_side=41))
        assert all("shortest side must have at least 41" in row.error for row in prepared.index)

    def test_originals_of_val_and_test_are_kept_byte_by_byte(self, tmp_path: Path) -> None:
        files = small_set() | {"test/NORMAL/a broken.png": b"not an image"}
        prepared = self.prepared(tmp_path, files)
        for split in ("val", "test"):
            originals = list(prepared.originals(split))
            assert [row for row, _ in originals] == list(prepared.rows(split))
            assert all(data == files[row.name] for row, data in originals)
        with pytest.raises(DataError, match="does not hold the originals of train"):
            list(prepared.originals("train"))

    def test_the_same_data_give_the_same_files(self, tmp_path: Path) -> None:
        dataset = opened(folder_of(tmp_path / "set", small_set(each=4)))
        for folder in ("one", "two"):
            prepare(dataset, Preparation(32), tmp_path / folder)
        for name in ("index.csv", "pixels.npy", "originals.zip", "dataset.json"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    def test_a_second_time_replaces_what_was_there(self, tmp_path: Path) -> None:
        self.prepared(tmp_path, small_set(each=4))
        smaller = opened(folder_of(tmp_path / "other", small_set()))
        assert len(prepare(smaller, Preparation(32), tmp_path / "out").index) == 12

    def test_progress_is_told_for_each_image(self, tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []
        self.prepared(tmp_path, small_set(), on_progress=lambda done, total: told.append((done, total)))
        assert told == [(done, 12) for done in range(1, 13)]

    def test_odd_names_survive(self, tmp_path: Path) -> None:
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
    def test_a_damaged_folder_is_told(self, tmp_path: Path, name: str, damage: str) -> None:
        self.prepared(tmp_path, small_set())
        file = tmp_path / "out" / name
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: -200 if damage == "cut" else 0])
        with pytest.raises(DataError, match=r"is not a prepared data set|is damaged"):
            Prepared.load(tmp_path / "out")

    @hypothesis_settings(max_examples=20, deadline=None)
    @given(st.permutations(range(12)))
    def test_the_digest_is_that_of_the_data_set_in_any_order(self, order: list[int]) -> None:
        files = list(small_set().items())
        dataset = Dataset(
            "memory",
            tuple(Example.named(files[at][0], files[at][0].split("/")[0], int("PNEU" in files[at][0])) for at in order),
            lambda example: dict(files)[example.name],
        )
        assert dataset.digest == replace(dataset, examples=dataset.examples[::-1]).digest


@pytest.mark.skipif(not REAL.exists(), reason=f"the real chest X-rays are not at {REAL}")
class TestRealXRays:
    def test_counts_are_those_of_its_card(self) -> None:
        dataset = opened(REAL)
        counts = Counter((example.split, CLASSES[example.label]) for example in dataset.examples)
        assert counts == {
            ("train", "NORMAL"): 1075,
            ("train", "PNEUMONIA"): 3123,
            ("val", "NORMAL"): 97,
            ("val", "PNEUMONIA"): 257,
            ("test", "NORMAL"): 169,
            ("test", "PNEUMONIA"): 495,
        }
        patients = {split: {example.patient for example in dataset.of(split)} for split in SPLITS}
        assert {split: len(found) for split, found in patients.items()} == {"train": 2288, "val": 202, "test": 356}
        assert not patients["train"] & patients["test"]
        assert {example.kind for example in dataset.examples} == {"normal", "bacterial", "viral"}
        assert dataset.notice is None

    def test_it_is_prepared_without_an_error(self, tmp_path: Path) -> None:
        prepared = prepare(opened(REAL), Preparation(), tmp_path)
        assert not [row.name for row in prepared.index if row.error]
        assert prepared.digest == "f3a609ecfb5b7ad0425403be9f623aad90c22eb31812f3f183cb06f19b38334c"
        assert len(list(prepared.originals("test"))) == 664
