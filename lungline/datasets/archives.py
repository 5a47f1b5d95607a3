"""A zip file as a source of images, and sentences about files that are no zip or cannot be read as one."""

import lzma
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from lungline.datasets.dataset import SPLITS, printable
from lungline.datasets.folder_names import is_hidden
from lungline.datasets.sources import read_bounded
from lungline.errors import DataError

# Content that people give as a data set by mistake: where it starts, its bytes, its name, and what to do about it.
_UNPACK = "unpack it ({tool}) and give the folder"
_KINDS = (
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK.format(tool="unrar x")),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK.format(tool="7z x")),
    (257, b"ustar", "a tar archive", _UNPACK.format(tool="tar -xf")),
    (0, b"\x1f\x8b", "a gzip archive (.gz, .tar.gz or .tgz)", _UNPACK.format(tool="tar -xzf")),
    (0, b"BZh", "a bzip2 archive (.bz2 or .tar.bz2)", _UNPACK.format(tool="tar -xjf")),
    (0, b"\xfd7zXZ\x00", "an xz archive (.xz or .tar.xz)", _UNPACK.format(tool="tar -xJf")),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive (.zst or .tar.zst)", _UNPACK.format(tool="tar --zstd -xf")),
    (0, b"PK\x07\x08", "a part of a split zip", "join the parts (zip -s 0) or unpack them (7z x) and give the folder"),
    (0, b"\x93NUMPY", "a single NumPy array", "save images and labels of all splits in one .npz, as MedMNIST does"),
    (0, b"\x89HDF", "an HDF5 file", "export its images into class folders"),
    (0, b"PAR1", "a Parquet table", "export its images into class folders"),
    (0, b"\xff\xd8\xff", "a single image (JPEG)", "give the folder of the data set, or `lungline upload` the image"),
    (0, b"\x89PNG", "a single image (PNG)", "give the folder of the data set, or `lungline upload` the image"),
    (128, b"DICM", "a single image (DICOM)", "give the folder of the data set, or `lungline upload` the image"),
    (32769, b"CD001", "a disc image (ISO)", "mount or unpack it (7z x) and give the folder"),
)  # fmt: skip
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "xz", 97: "WavPack", 98: "PPMd", 99: "AES"}
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED = 0x1
_HEAD = 33000


class ZipSource:
    """A zip file; its members are read one by one and never extracted, so their paths can do no harm."""

    def __init__(self, file: Path, max_bytes: int) -> None:
        """Raises DataError, with what to do instead, for a file that is no zip or that Python cannot unpack."""
        self._max_bytes = max_bytes
        try:
            self._zip = zipfile.ZipFile(file)
        except UnicodeDecodeError as exc:
            cure = _UNPACK.format(tool="unzip")
            raise DataError(f"{_name(file)} has file names that are not UTF-8, though it says so; {cure}.") from exc
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
            raise DataError(_why_not(file, exc)) from exc
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            # Archives of Windows may end the names of folders with a backslash.
            if not info.is_dir() and not (info.filename.endswith("\\") and not info.file_size):
                self._add(info, _name(file))

    def _add(self, info: zipfile.ZipInfo, name: str) -> None:
        other = self._members.setdefault(info.filename, info)
        if is_hidden(tuple(info.filename.replace("\\", "/").split("/"))):
            return
        if info.header_offset < 0:
            raise DataError(f"{name} lacks its beginning: join its parts (zip -s 0), or copy or download it again.")
        if stat.S_ISLNK(info.external_attr >> 16):
            link = printable(info.filename)
            raise DataError(f"{name} has symbolic links ({link}): zip the files themselves, or give the folder.")
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{name} is protected by a password; {_UNPACK.format(tool='7z x')}.")
        if info.compress_type not in {*_READABLE, getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED)}:
            method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
            cure = _UNPACK.format(tool="7z x")
            raise DataError(f"{name} is compressed with {method}, which Python's zipfile cannot read; {cure}.")
        if (other.CRC, other.file_size) != (info.CRC, info.file_size):
            cure = _UNPACK.format(tool="7z x -aou, which keeps both,")
            raise DataError(f"{name} holds two different files named {printable(info.filename)}; {cure}.")

    @property
    def has_arrays(self) -> bool:
        """Whether the file is an .npz: a zip with the arrays of a split, or with nothing but arrays."""
        arrays = [path for path in self._members if path.lower().endswith(".npy")]
        return any(f"{split}_images.npy" in arrays for split in SPLITS) or 0 < len(arrays) == len(self._members)

    def paths(self) -> Sequence[str]:
        """All files, in the order of their paths."""
        return sorted(self._members)

    def read(self, path: str) -> bytes:
        """The bytes of one file. The size in the zip's directory is not trusted."""
        try:
            with self._zip.open(self._members[path]) as file:
                return read_bounded(file.read, path, self._max_bytes)
        except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as exc:
            raise DataError(f"{printable(path)} cannot be read from the zip: {exc}.") from exc


def _why_not(file: Path, error: Exception) -> str:
    """Why a file cannot be opened as a zip, in one sentence with what to do instead."""
    name = _name(file)
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as exc:
        return f"{name} cannot be read: {exc.strerror or exc}."
    for start, magic, kind, cure in _KINDS:
        if head[start:].startswith(magic):
            return f"{name} is {kind}, not a folder, a zip or an .npz; {cure}."
    if not head:
        return f"{name} is empty; copy or download it again."
    if head.startswith(b"PK\x03\x04"):
        return f"{name} is a zip that is cut off or damaged ({error}); copy or download it again."
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return f"{name} is a web page, not a zip: sign in where you download it, and download it again."
    return f"Expected a folder, a zip or an .npz; found {name}, which cannot be read as one: {error}."


def _name(file: Path) -> str:
    return printable(str(file))
