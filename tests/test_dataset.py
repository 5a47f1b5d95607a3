import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungline.datasets.dataset import SPLITS, Example, cut_validation, patient_of
from lungline.datasets.prepared import prepare
from lungline.errors import DataError
from lungline.imaging.preparation import Preparation
from lungline.task.reading import default_task
from tests.support.small_datasets import folder_of, image, opened, small_set, zip_of

REAL = Path(__file__).parents[2] / "shared/data/chest_xray.zip"


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
        assert default_task().kind_of(label, name) == kind


class TestSplits:
    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("label", [0, 1])
    def test_an_empty_class_is_refused(self, tmp_path: Path, split: str, label: int) -> None:
        files = {
            path: data
            for path, data in small_set().items()
            if not path.startswith(f"{split}/{default_task().names[label]}")
        }
        with pytest.raises(
            DataError, match=f"expected both classes in {split}; found no {default_task().names[label]} image"
        ):
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
            for label, name in enumerate(default_task().names)
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
    def test_a_cut_keeps_patients_whole_and_both_classes(self, owners: list[tuple[int, int]], seed: int) -> None:
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


@pytest.mark.skipif(not REAL.exists(), reason=f"the real chest X-rays are not at {REAL}")
class TestRealXRays:
    def test_counts_are_those_of_its_card(self) -> None:
        dataset = opened(REAL)
        counts = Counter((example.split, default_task().names[example.label]) for example in dataset.examples)
        assert counts == {
            ("train", "NORMAL"): 1075,
            ("train", "PNEUMONIA"): 3123,
            ("val", "NORMAL"): 97,
            ("val", "PNEUMONIA"): 257,
            ("test", "NORMAL"): 169,
            ("test", "PNEUMONIA"): 495,
        }
        patients = {split: {example.patient for example in dataset.of(split)} for split in SPLITS}
        assert {split: len(names) for split, names in patients.items()} == {"train": 2288, "val": 202, "test": 356}
        assert not patients["train"] & patients["test"]
        assert {example.kind for example in dataset.examples} == {"normal", "bacterial", "viral"}
        assert dataset.notice is None

    def test_it_is_prepared_without_an_error(self, tmp_path: Path) -> None:
        prepared = prepare(opened(REAL), Preparation(), tmp_path)
        assert not [row.name for row in prepared.index if row.error]
        assert prepared.digest == "f3a609ecfb5b7ad0425403be9f623aad90c22eb31812f3f183cb06f19b38334c"
        assert len(list(prepared.originals("test"))) == 664
