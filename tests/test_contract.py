import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data.contract import Breach, check, enforce, expectations_of
from lungline.datasets.opening import Prepared, open_dataset, prepare
from lungline.errors import ContractBreached, DataError
from lungline.imaging.preparation import Preparation
from lungline.settings import Settings
from lungline.task.reading import default_task
from tests.support.small_datasets import folder_of, opened, small_set

Rows = list[dict[str, str]]
EXPECTATIONS = expectations_of(default_task())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set that keeps the contract."""
    folder = tmp_path_factory.mktemp("good")
    prepare(open_dataset("phantom:120", settings=Settings(offline=True)), Preparation(32), folder)
    return folder


def broken(good: Path, folder: Path, change: Callable[[Rows], object]) -> list[Breach]:
    """The breaches after a change to the rows of a good index."""
    with (good / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    change(rows)
    folder.mkdir()
    for name in ("pixels.npy", "dataset.json"):
        (folder / name).symlink_to(good / name)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return check(folder, folder / "docs")


def of(rows: Rows, split: str, label: int) -> Rows:
    return [row for row in rows if row["split"] == split and row["label"] == str(label)]


def all_but(count: int, split: str, label: int) -> Callable[[Rows], object]:
    """Leaves `count` rows of one class in a split and moves the others to another split, without their patients."""

    def change(rows: Rows) -> None:
        to = "val" if split == "train" else "train"
        for row in of(rows, split, label)[count:]:
            row.update(split=to, patient="")

    return change


def all_pneumonia_but_one(split: str) -> Callable[[Rows], object]:
    def change(rows: Rows) -> None:
        for row in of(rows, split, 0)[1:]:
            row.update(label="1")

    return change


def test_good_data_break_nothing(good: Path, tmp_path: Path) -> None:
    assert check(good, tmp_path) == []
    enforce(good, tmp_path)


ALONE: dict[str, Callable[[Rows], object]] = {
    "every image must be readable": lambda rows: rows[3].update(error="The file is empty."),
    "every label must be known": lambda rows: rows[3].update(label="2"),
    "every split must be known": lambda rows: rows[3].update(split="holdout", patient=""),
    "every name must be unique": lambda rows: rows[3].update(name=rows[4]["name"]),
    "no image may be in two splits": lambda rows: of(rows, "test", 0)[0].update(
        sha256=of(rows, "train", 0)[0]["sha256"]
    ),
    "no patient may be in two splits": lambda rows: of(rows, "test", 0)[0].update(
        patient=of(rows, "train", 0)[0]["patient"]
    ),
    "no image may have both labels": lambda rows: of(rows, "train", 0)[0].update(
        sha256=of(rows, "train", 1)[0]["sha256"]
    ),
    "the shortest side must have at least 28 pixels": lambda rows: rows[3].update(width="27", height="30"),
    "no side may be more than four times the other": lambda rows: rows[3].update(width="200", height="801"),
    "the grey levels of an image must span at least 32 of 256": lambda rows: rows[3].update(low="100", high="100"),
    "the mean grey level of an image must lie between 10 and 245": lambda rows: rows[3].update(mean="250.5"),
    "train must have at least 30 NORMAL images": all_but(29, "train", 0),
    "train must have at least 30 PNEUMONIA images": all_but(29, "train", 1),
    "val must have at least 5 NORMAL images": all_but(4, "val", 0),
    "val must have at least 5 PNEUMONIA images": all_but(4, "val", 1),
    "test must have at least 10 NORMAL images": all_but(9, "test", 0),
    "test must have at least 10 PNEUMONIA images": all_but(9, "test", 1),
}


@pytest.mark.parametrize("sentence", ALONE)
def test_each_expectation_breaks_alone(good: Path, tmp_path: Path, sentence: str) -> None:
    (breach,) = broken(good, tmp_path / "broken", ALONE[sentence])
    assert breach.expectation == sentence


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_nearly_missing_class_breaks_the_balance(good: Path, tmp_path: Path, split: str) -> None:
    # A small split then lacks images of the rarer class as well.
    breaches = {breach.expectation for breach in broken(good, tmp_path / "broken", all_pneumonia_but_one(split))}
    share = f"pneumonia must be between 5 % and 95 % of {split}"
    fewest = {wanted.sentence for wanted in EXPECTATIONS if f"{split} must have at least" in wanted.sentence}
    assert breaches - fewest == ({share} if split != "val" else set())


def test_every_expectation_has_a_case() -> None:
    balance = {wanted.sentence for wanted in EXPECTATIONS if "between 5 %" in wanted.sentence}
    assert {wanted.sentence for wanted in EXPECTATIONS} == set(ALONE) | balance


def test_a_breach_names_count_and_first_offenders(good: Path, tmp_path: Path) -> None:
    def blank(rows: Rows) -> None:
        for row in rows[:5]:
            row.update(low="7", high="7")

    (breach,) = broken(good, tmp_path / "broken", blank)
    assert breach.count == 5
    assert len(breach.examples) == 3
    assert re.fullmatch(r"train/NORMAL/train-n\d+_clear_1\.jpeg: 0\.?0?", breach.examples[0])
    with pytest.raises(ContractBreached) as raised:
        enforce(tmp_path / "broken", tmp_path / "docs")
    sentence = str(raised.value)
    assert sentence.startswith(
        "The data break the contract: the grey levels of an image must span at least 32 of 256; "
        "found 5 images that break it (train/NORMAL/train-n"
    )
    assert sentence.endswith(", ...).")


def test_an_unreadable_image_breaks_one_expectation(good: Path, tmp_path: Path) -> None:
    """It is named with its reason, and it does not count against expectations about pixels."""

    def unread(rows: Rows) -> None:
        zeros = dict.fromkeys(("width", "height", "mean", "std", "low", "high"), "0")
        rows[0].update(error="The file is empty.", sha256="", **zeros)
        of(rows, "test", 1)[0].update(error="The PNG ends inside its header.", sha256="", **zeros)

    (breach,) = broken(good, tmp_path / "broken", unread)
    assert breach.count == 2
    assert breach.examples[0].endswith(".jpeg: The file is empty.")


def test_a_file_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", small_set())
    Path(os.fsdecode(os.fsencode(folder) + b"/train/NORMAL/\xff\xfe.png")).write_bytes(b"not an image")
    prepare(opened(folder), Preparation(32), tmp_path / "prepared")
    breaches = check(tmp_path / "prepared", tmp_path / "docs")
    (unreadable,) = (breach for breach in breaches if breach.expectation == "every image must be readable")
    name = "train/NORMAL/\\udcff\\udcfe.png"
    assert unreadable.examples[0].startswith(f"{name}: ")
    assert name in (tmp_path / "docs/index.html").read_text(encoding="utf-8")


def test_a_twin_is_named_with_its_counterpart(good: Path, tmp_path: Path) -> None:
    (breach,) = broken(good, tmp_path / "broken", ALONE["no image may be in two splits"])
    assert breach.count == 2
    first, second = (example.split(": ") for example in breach.examples)
    assert first == second[::-1]
    assert {first[0].split("/")[0], first[1].split("/")[0]} == {"train", "test"}


def test_several_breaches_are_one_sentence_each(good: Path, tmp_path: Path) -> None:
    def twice(rows: Rows) -> None:
        rows[3].update(error="The file is empty.")
        rows[4].update(width="5")

    broken(good, tmp_path / "broken", twice)
    with pytest.raises(ContractBreached, match=r"must be readable; found 1 .*\. And: the shortest side must"):
        enforce(tmp_path / "broken", tmp_path / "docs")


def test_the_page_shows_every_expectation_with_its_reason(good: Path, tmp_path: Path) -> None:
    check(good, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert f"all {len(EXPECTATIONS)} expectations hold" in page
    assert Prepared.load(good).digest[:12] in page
    assert "says nothing about patients" in page
    for expectation in EXPECTATIONS:
        assert expectation.reason in page


def test_the_page_shows_breaches_first_and_escapes_text(good: Path, tmp_path: Path) -> None:
    broken(good, tmp_path / "broken", lambda rows: rows[3].update(name="<script>alert(1)</script>", error="<b>"))
    page = (tmp_path / "broken/docs/index.html").read_text()
    assert f"1 of {len(EXPECTATIONS)} expectations are broken" in page
    assert page.index("every image must be readable") < page.index("every label must be known")
    assert "<script" not in page
    assert "<b>" not in page


def test_the_page_loads_nothing_from_other_hosts(good: Path, tmp_path: Path) -> None:
    check(good, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    page = (tmp_path / "index.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"\b(src|href)=\"[^#]", page)
    assert not re.search(r"url\(", page)


def test_a_folder_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a prepared data set"):
        check(tmp_path, tmp_path / "docs")


def test_an_empty_data_set_breaks_the_minima(good: Path, tmp_path: Path) -> None:
    facts = json.loads((good / "dataset.json").read_text())
    assert facts["synthetic"]
    breaches = broken(good, tmp_path / "broken", lambda rows: [row.update(split="holdout") for row in rows])
    assert "train must have at least 30 NORMAL images" in {breach.expectation for breach in breaches}
    assert next(breach for breach in breaches if "between 5 %" in breach.expectation).observed == "none"
