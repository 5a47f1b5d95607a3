"""Zips of other programs and systems, and files that are no zip: read, or refused with what to do."""

import io
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from lungline.errors import DataError
from tests.support.small_datasets import image, opened, small_set, zip_of

FILES = small_set()


def changed_zip(file: Path, *, method: int | None = None, flags: int = 0) -> Path:
    """A zip whose members claim another compression method or other flags."""
    content = bytearray(zip_of(file, FILES).read_bytes())
    for magic, flags_at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for match in re.finditer(re.escape(magic), bytes(content)):
            at = match.start() + flags_at
            content[at] |= flags
            if method is not None:
                content[at + 2 : at + 4] = struct.pack("<H", method)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: "C:\\data\\" + name.replace("/", "\\"),
        lambda name: f"./{name}",
        lambda name: f"/data/{name}",
        lambda name: f"../../{name}",
    ],
    ids=["backslashes", "drive", "dot", "absolute", "climbing"],
)
def test_paths_of_other_programs_are_read(tmp_path: Path, renamed: "type[str]") -> None:
    file = zip_of(tmp_path / "set.zip", {renamed(name): data for name, data in FILES.items()} | {"train\\": b""})
    dataset = opened(file)
    assert {example.name: dataset.read(example) for example in dataset.examples} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_read(tmp_path: Path, compression: int) -> None:
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    dataset = opened(file)
    assert {example.name: dataset.read(example) for example in dataset.examples} == FILES


@pytest.mark.parametrize(
    ("method", "name"), [(9, "Deflate64"), (95, "xz"), (98, "PPMd"), (6, "Implode"), (77, "method 77")]
)
def test_a_compression_that_python_lacks_is_refused(tmp_path: Path, method: int, name: str) -> None:
    file = changed_zip(tmp_path / "set.zip", method=method)
    with pytest.raises(DataError, match=rf"compressed with {name}, .*unpack it \(7z x\) and give the folder\.$"):
        opened(file)


def test_a_password_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"protected by a password; unpack it \(7z x\) and give the folder\.$"):
        opened(changed_zip(tmp_path / "set.zip", flags=1))


@pytest.mark.parametrize("part", [slice(0, 1500), slice(0, -10)])
def test_a_truncated_zip_is_refused(tmp_path: Path, part: slice) -> None:
    file = zip_of(tmp_path / "set.zip", FILES)
    file.write_bytes(file.read_bytes()[part])
    with pytest.raises(DataError, match=r"a zip that is cut off or damaged .*; copy or download it again\.$"):
        opened(file)


def test_a_zip_without_its_beginning_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "set.zip", FILES)
    file.write_bytes(file.read_bytes()[2000:])
    with pytest.raises(DataError, match=r"lacks its beginning: join its parts"):
        opened(file)


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """Its content is only the path that it links to."""
    file = zip_of(tmp_path / "set.zip", FILES)
    link = zipfile.ZipInfo("train/NORMAL/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(link, "person0_virus_0.png")
    with pytest.raises(DataError, match=r"symbolic links \(train/NORMAL/link.png\): zip the files themselves"):
        opened(file)


def test_a_zip_of_a_zip_is_refused(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "chest.zip", FILES)
    with pytest.raises(DataError, match=r"outer.zip: .*: unpack chest.zip first\.$"):
        opened(zip_of(tmp_path / "outer.zip", {"chest.zip": inner.read_bytes()}))


def test_a_duplicate_name_with_the_same_content_is_read(tmp_path: Path) -> None:
    name = next(iter(FILES))
    for content, allowed in ((FILES[name], True), (image(99), False)):
        file = zip_of(tmp_path / "set.zip", FILES)
        with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(name, content)
        if allowed:
            assert len(opened(file).examples) == len(FILES)
        else:
            with pytest.raises(DataError, match=f"two different files named {name}; unpack it"):
                opened(file)


def test_names_that_are_not_utf8_are_read_or_refused(tmp_path: Path) -> None:
    """A zip may say that its names are UTF-8, and Python then insists on it."""
    file = zip_of(tmp_path / "set.zip", FILES)
    file.write_bytes(file.read_bytes().replace(b"person0_", b"pers\xff\xfe0_"))
    assert len(opened(file).examples) == len(FILES)
    zip_of(file, {name.replace("person0_", "pérson0_"): data for name, data in FILES.items()})
    file.write_bytes(file.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"file names that are not UTF-8, though it says so; unpack it"):
        opened(file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_data_are_named(tmp_path: Path, compression: int) -> None:
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    content = file.read_bytes()
    file.write_bytes(content[:150] + b"\xa5" * 40 + content[190:])
    dataset = opened(file)
    example = next(example for example in dataset.examples if example.name == next(iter(FILES)))
    with pytest.raises(DataError, match=r"train/NORMAL/person0_virus_0.png cannot be read from the zip"):
        dataset.read(example)


def tar_of(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:  # pyright: ignore[reportCallIssue, reportArgumentType] - its stub lists modes
        archive.add(Path(__file__), "test.py")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ""])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"Rar!\x1a\x07\x01\x00" + bytes(99), r"is a RAR archive, .*unpack it \(unrar x\) and give the folder"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), r"is a 7z archive, .*unpack it \(7z x\) and give the folder"),
        (tar_of(""), r"is a tar archive, .*unpack it \(tar -xf\) and give the folder"),
        (tar_of("gz"), r"is a gzip archive .*unpack it \(tar -xzf\) and give the folder"),
        (tar_of("bz2"), r"is a bzip2 archive .*unpack it \(tar -xjf\) and give the folder"),
        (tar_of("xz"), r"is an xz archive .*unpack it \(tar -xJf\) and give the folder"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), r"is a Zstandard archive .*give the folder"),
        (b"PK\x07\x08PK\x03\x04" + bytes(99), r"is a part of a split zip, .*join the parts"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", r"is a web page, not a zip: sign in"),
        (image(1, "JPEG"), r"is a single image \(JPEG\), .*give the folder of the data set"),
        (b"\x93NUMPY\x01\x00", r"is a single NumPy array, .*in one .npz"),
        (b"", r"is empty; copy or download it again"),
    ],
    ids=["rar", "7z", "tar", "gzip", "bzip2", "xz", "zstd", "split", "page", "jpeg", "npy", "empty"],
)  # fmt: skip
def test_a_file_that_is_no_zip_is_named(tmp_path: Path, content: bytes, sentence: str, suffix: str) -> None:
    (tmp_path / f"set{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path / f"set{suffix}")
