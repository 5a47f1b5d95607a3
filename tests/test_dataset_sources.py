import os
import zipfile
from pathlib import Path

import pytest

from lungline.datasets.opening import open_dataset
from lungline.datasets.sources import FolderSource
from lungline.errors import DataError, StorageUnavailable
from lungline.settings import Settings
from tests.support.object_store import free_ports, running_store
from tests.support.small_datasets import folder_of, image, named, names, opened, small_set, zip_of


def test_folder_and_zip_give_the_same_data_set(tmp_path: Path) -> None:
    files = small_set()
    here = opened(folder_of(tmp_path / "folder", files))
    there = opened(zip_of(tmp_path / "set.zip", {f"any/where/{path}": data for path, data in files.items()}))
    assert here.digest == there.digest
    assert set(here.examples) == set(there.examples)
    assert {example.name: there.read(example) for example in there.examples} == files


def test_folders_of_litter_are_not_opened(tmp_path: Path) -> None:
    """Some of them may not be listed by everyone, as lost+found on a disk of its own."""
    folder = folder_of(tmp_path / "set", small_set() | {"lost+found/x": b"", ".cache/x": b"", "a/@eaDir/x": b""})
    assert set(FolderSource(folder, 1_000).paths()) == set(small_set())


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", small_set())
    (folder / "train/NORMAL").rename(tmp_path / "elsewhere")
    (folder / "train/NORMAL").symlink_to(tmp_path / "elsewhere")
    (folder / "test/NORMAL/again").symlink_to(folder)
    assert names(opened(folder)) == set(small_set())


def test_the_name_is_safe_to_show(tmp_path: Path) -> None:
    assert opened(folder_of(tmp_path / "ward 7", small_set())).name == "ward 7"
    assert opened(zip_of(tmp_path / "set.zip", small_set())).name == "set.zip"


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    assert len(opened(zip_of(tmp_path / "set.bin", small_set())).examples) == 12


def test_skipped_files_are_in_the_notice(tmp_path: Path) -> None:
    dataset = opened(folder_of(tmp_path / "set", small_set() | {"notes.txt": b"", "train/COVID/x.png": b""}))
    assert dataset.notice == (
        "set: left out COVID (1 file): neither NORMAL nor PNEUMONIA; "
        "left out 1 file of another kind, such as notes.txt."
    )


def test_a_member_whose_path_climbs_out_is_only_a_name(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "set.zip", small_set() | {"../../train/NORMAL/evil.png": b"x"})
    assert len(opened(file).examples) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", small_set())
    os.mkfifo(folder / "train/NORMAL/pipe.png")
    dataset = opened(folder)
    with pytest.raises(DataError, match=r"train/NORMAL/pipe.png cannot be read: it is not a regular file"):
        dataset.read(named(dataset, "train/NORMAL/pipe.png"))


def test_file_names_that_are_not_utf8_are_shown_with_escapes(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xffet"))
    folder_of(folder, small_set())
    for name in (b"train/NORMAL/\xfe.png", b"train/\xfe.csv"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(image(50))
    dataset = opened(folder)
    assert dataset.read(named(dataset, "train/NORMAL/\\udcfe.png")) == image(50)
    assert dataset.name == "s\\udcffet"
    assert dataset.notice == "s\\udcffet: left out 1 file of another kind, such as train/\\udcfe.csv."
    with pytest.raises(DataError, match=r"There is no data at .*udcfe"):
        opened(os.fsdecode(b"\xfe"))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("x" * 5000, r"xxx\.\.\. cannot be opened: File name too long"),
        ("~nobody-of-this-name/set", "~nobody-of-this-name/set cannot be opened"),
        ("", "There is no data at an empty name"),
        ("/dev/null", "There is no data at /dev/null"),
        ("s3://bucket/a/../", r"s3://bucket/a/../: expected a prefix without the parts \. and \.\."),
        ("s3://bucket/./a", r"expected a prefix without the parts \. and \.\."),
    ],
)
def test_an_odd_path_is_refused_in_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        opened(spec)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path, kind: str) -> None:
    files = small_set() | {"train/NORMAL/bomb.png": bytes(2_000_000)}
    spec = folder_of(tmp_path / "set", files) if kind == "folder" else zip_of(tmp_path / "set.zip", files)
    dataset = open_dataset(str(spec), settings=Settings(image_max_bytes=1_000_000))
    with pytest.raises(DataError, match=r"train/NORMAL/bomb.png has more than 1,000,000 bytes"):
        dataset.read(named(dataset, "train/NORMAL/bomb.png"))


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
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


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    dataset = opened(folder_of(tmp_path / "set", small_set()))
    (tmp_path / "set/train/NORMAL/person0_virus_0.png").unlink()
    with pytest.raises(DataError, match=r"person0_virus_0.png cannot be read: No such file"):
        dataset.read(named(dataset, "train/NORMAL/person0_virus_0.png"))


def test_threads_may_read_one_zip(tmp_path: Path) -> None:
    files = small_set(each=20)
    dataset = opened(zip_of(tmp_path / "set.zip", files))
    assert dataset.digest == opened(folder_of(tmp_path / "set", files)).digest


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "set.zip is empty; copy or download it again"),
        (b"hello", "File is not a zip file"),
        (b"PK\x03\x04" + bytes(50), "zip"),
    ],
)
def test_a_file_that_is_not_a_zip_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        opened(tmp_path / "set.zip")


def test_a_missing_path_is_refused_with_the_choices() -> None:
    with pytest.raises(DataError, match=r"There is no data at nowhere; expected a folder, a zip, an .npz"):
        opened("nowhere")


def test_a_prefix_of_a_bucket_is_a_data_set(tmp_path: Path) -> None:
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


def test_an_unreachable_store_raises() -> None:
    settings = Settings(s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}", s3_access_key="x", s3_secret_key="y")  # pyright: ignore[reportArgumentType] - pydantic makes secrets of them
    with pytest.raises(StorageUnavailable):
        open_dataset("s3://images/sets", settings=settings)
