"""The files of a zip: read one by one, never extracted, so that their names can do no harm."""

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from laptop.batches.entry import Entry, read_image, too_large
from lungline.datasets.dataset import printable
from lungline.errors import ImageRefused, LunglineError
from lungline.litter import is_litter

_ENCRYPTED = 0x1
# An uncompressed X-ray with a black border packs to a tenth; nothing of use packs this tightly.
_TIGHTEST = 200
_SMALL = 2**20


@contextmanager
def zip_entries(path: Path, max_bytes: int) -> Iterator[list[Entry]]:
    """The files of a zip. Raises LunglineError for a damaged one, and for one whose members share their bytes."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise LunglineError(f"The zip {printable(str(path))} cannot be read: {exc}.") from exc
    with archive:
        members = [info for info in archive.infolist() if not info.is_dir() and not is_litter(info.filename)]
        # Else a small file could hold the same bytes a million times.
        if sum(info.compress_size for info in members) > path.stat().st_size:
            raise LunglineError(f"The zip {printable(str(path))} claims to hold more than it has: it is not unpacked.")
        yield [_entry(archive, info, max_bytes) for info in members]


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> Entry:
    name = printable(info.filename)
    if info.flag_bits & _ENCRYPTED:
        return Entry(name, fault="It is protected by a password: unpack the zip, and give the folder.")
    if stat.S_ISLNK(info.external_attr >> 16):
        return Entry(name, fault="It is a link, which is not followed.")
    mark = f"{info.filename}\n{info.CRC}\n{info.file_size}"
    return Entry(name, mark, partial(_read, archive, info, max_bytes))


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if info.file_size > max_bytes:
        raise too_large(max_bytes)
    if info.file_size > max(_SMALL, _TIGHTEST * info.compress_size):
        raise ImageRefused("bomb", "The file is packed more tightly than any X-ray.")
    try:
        with archive.open(info) as file:
            return read_image(file.read, max_bytes)
    except (OSError, zipfile.BadZipFile, NotImplementedError, zlib.error, lzma.LZMAError, EOFError) as exc:
        raise LunglineError(f"It cannot be unpacked: {exc}.") from exc
    except (RuntimeError, ValueError) as exc:
        raise LunglineError(f"It cannot be unpacked: {exc}.") from exc
