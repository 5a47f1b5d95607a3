"""Which files `lungline upload` takes, and their keys."""

import os
from pathlib import Path

import pytest

from laptop.upload_files import select
from lungline.errors import LunglineError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "b/x.png", "c/b/x.png", "ward/7/y.png", "ward/z.png", "ward/.DS_Store", "ward/7/Thumbs.db"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "ward/__MACOSX").mkdir()
    (tmp_path / "ward/__MACOSX/._z.png").touch()
    (tmp_path / "empty").mkdir()


def keys(*names: str, prefix: str = "") -> list[str]:
    return [file.key for file in select(names, prefix).files]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.png"], ["x.png"]),
        (["a/x.png", "b/x.png"], ["a/x.png", "b/x.png"]),
        (["a/x.png", "b/x.png", "c/b/x.png"], ["a/x.png", "{}/b/x.png", "c/b/x.png"]),
        (["a/x.png", "ward/z.png", "b/x.png"], ["a/x.png", "z.png", "b/x.png"]),
        (["a/x.png", "a/x.png", "./a/../a/x.png"], ["x.png"]),
        (["ward"], ["ward/z.png", "ward/7/y.png"]),
        (["ward/"], ["ward/z.png", "ward/7/y.png"]),
        (["ward/7", "ward/7/y.png"], ["7/y.png"]),
        (["b", "c/b"], ["{}/b/x.png", "c/b/x.png"]),
        (["."], ["{}/a/x.png", "{}/b/x.png", "{}/c/b/x.png", "{}/ward/z.png", "{}/ward/7/y.png"]),
    ],
)
def test_keys_are_names_with_the_folders_that_tell_them_apart(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert keys(*names) == [key.format(tmp_path.name) for key in expected]


def test_the_file_of_each_key_is_read() -> None:
    files = select(["a/x.png", "c/b/x.png"]).files
    assert {file.key: file.read() for file in files} == {"a/x.png": b"a/x.png", "b/x.png": b"c/b/x.png"}


def test_a_prefix_stands_before_every_key() -> None:
    assert keys("a/x.png", "b/x.png", prefix="ward 7/") == ["ward 7/a/x.png", "ward 7/b/x.png"]


def test_what_a_person_should_know_is_remarked() -> None:
    assert select(["a/x.png", "b/x.png", "a/x.png", "ward"]).remarks == (
        "Files of the same name get their folder's name in front: a/x.png, b/x.png.",
        "1 file given more than once: uploaded once.",
        "3 files of the operating system passed over.",
    )
    assert select(["a/x.png"]).remarks == ()


def test_two_links_to_one_file_are_two_uploads(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("a/x.png")
    assert keys("a/x.png", "link.png") == ["x.png", "link.png"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"r\xf6ntgen.png", "r%F6ntgen.png"),
        (b"r\xc3\xb6ntgen.png", "röntgen.png"),
        (b"tab\there.png", "tab%09here.png"),
        (b"two\nlines.png", "two%0Alines.png"),
        (b"\xff\xfe\x80", "%FF%FE%80"),
        (b"ward\\7.png", "ward%5C7.png"),
    ],
)
def test_bytes_that_no_key_can_have_are_escaped(name: bytes, key: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "odd") + b"/" + name
    (tmp_path / "odd").mkdir()
    os.close(os.open(path, os.O_CREAT))
    assert keys(os.fsdecode(path)) == [key]
    assert keys("odd") == [f"odd/{key}"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.png", "'none.png' cannot be read: No such file or directory."),
        ("", "'' cannot be read: No such file or directory."),
        ("empty", "There is no file to upload."),
        ("ward/.DS_Store", "There is no X-ray among these files."),
        ("pipe", "pipe is not a file or folder."),
        ("/dev/zero", "/dev/zero is not a file or folder."),
        ("loop", "'loop' cannot be read: Too many levels of symbolic links."),
        ("nul\0.png", "embedded null"),
        ("x" * 300, "cannot be read: File name too long."),
    ],
)
def test_what_cannot_be_uploaded_is_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LunglineError) as refused:
        select([name])
    assert sentence in str(refused.value)


def test_a_key_longer_than_s3_allows_is_refused() -> None:
    with pytest.raises(LunglineError, match="more than 1024 bytes"):
        select(["a/x.png"], "x" * 1020 + "/")


def test_a_file_that_vanished_is_one_sentence(tmp_path: Path) -> None:
    (file,) = select(["a/x.png"]).files
    (tmp_path / "a/x.png").unlink()
    with pytest.raises(LunglineError, match=r"x\.png cannot be read: No such file or directory\.$"):
        file.read()
