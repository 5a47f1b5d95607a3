"""What a batch consists of: the files of a folder, a zip, a DICOMDIR, or a prefix of an S3 bucket."""

import io
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from laptop.batches.dicom_media import is_dicomdir, media_entries
from laptop.batches.entry import Entry, read_image, too_large
from laptop.batches.zips import zip_entries
from lungline.datasets.dataset import printable
from lungline.errors import LunglineError
from lungline.litter import is_litter
from lungline.settings import Settings
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage


@contextmanager
def opened(source: str, settings: Settings) -> Iterator[list[Entry]]:
    """The files of a batch, each to be read within the context. Raises LunglineError where there is nothing to list."""
    if source.startswith("s3://"):
        storage = _source_storage()
        try:
            yield _s3_entries(storage, source, settings)
        finally:
            storage.close()
        return
    path = Path(os.path.abspath(source) if source else "")  # noqa: PTH100 - without following links
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as exc:
        raise LunglineError(f"{printable(repr(source))} cannot be read: {exc}.") from exc
    if is_folder:
        yield list(_folder_entries(path, settings.image_max_bytes))
    elif not is_file:
        raise LunglineError(f"{printable(source)!r} is not a folder, a zip, a DICOMDIR or s3://bucket/prefix.")
    elif is_dicomdir(path):
        yield media_entries(path, partial(file_entry, max_bytes=settings.image_max_bytes))
    elif zipfile.is_zipfile(path):
        with zip_entries(path, settings.image_max_bytes) as entries:
            yield entries
    else:
        yield [file_entry(path, path.name, max_bytes=settings.image_max_bytes)]


def file_entry(path: Path, name: str, *, max_bytes: int) -> Entry:
    """The entry of a file; with its fault when it is not there or no regular file."""
    name = printable(name)
    try:
        status = path.stat()
    except OSError as exc:
        return Entry(name, fault=f"It cannot be read: {exc.strerror}.")
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, fault="It is not a regular file.")
    mark = f"{path}\n{status.st_size}\n{status.st_mtime_ns}"
    return Entry(name, mark, partial(_read_file, path, max_bytes))


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise too_large(max_bytes)
        with path.open("rb") as file:
            return read_image(file.read, max_bytes)
    except OSError as exc:
        raise LunglineError(f"It cannot be read: {exc.strerror or exc}.") from exc


def _folder_entries(top: Path, max_bytes: int) -> Iterator[Entry]:
    """All files below a folder in the order of their paths. Links out of it are named, and not followed."""
    unlisted: list[OSError] = []
    inside = top.resolve()
    for folder, folders, names in os.walk(top, onerror=unlisted.append):
        relative = Path(folder).relative_to(top)
        folders[:] = sorted(name for name in folders if not is_litter(str(relative / name)))
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted(names) + links:
            path, shown = Path(folder) / name, str(relative / name)
            if is_litter(shown):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                yield Entry(printable(shown), fault="It is a link out of the folder, which is not followed.")
            elif name not in links:  # what a link to a folder within leads to is listed there
                yield file_entry(path, shown, max_bytes=max_bytes)
    for error in unlisted:
        shown = os.path.relpath(str(error.filename), top)
        yield Entry(printable(shown), fault=f"The folder cannot be listed: {error.strerror}.")


def _source_storage() -> Storage:
    """The store that boto3's own environment and configuration name; it may be another than that of the uploads."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return Storage(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"), region)


def _s3_entries(storage: Storage, source: str, settings: Settings) -> list[Entry]:
    bucket, prefix = parse_uri(source)
    if bucket == settings.uploads_bucket and storage.endpoint == settings.s3_endpoint:
        raise LunglineError(f"{source} is where uploads are put: its images are uploads already.")
    listed: Iterable[tuple[str, str, int]] = (
        (info.key, info.etag, info.size) for info in storage.list(bucket, prefix) if not info.key.endswith("/")
    )
    return [
        Entry(printable(key), f"{key}\n{etag}", partial(_read_object, storage, bucket, key, size, settings))
        for key, etag, size in listed
        if not is_litter(key)
    ]


def _read_object(storage: Storage, bucket: str, key: str, size: int, settings: Settings) -> bytes:
    if size > settings.image_max_bytes:
        raise too_large(settings.image_max_bytes)
    data = storage.get(bucket, key, max_bytes=settings.image_max_bytes).data
    return read_image(io.BytesIO(data).read, settings.image_max_bytes)
