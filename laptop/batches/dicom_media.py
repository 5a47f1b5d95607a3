"""The files that a DICOMDIR names (DICOM PS3.10 8.6, PS3.3 annex F), as discs from other hospitals have one."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laptop.batches.entry import Entry
from lungline.datasets.dataset import printable
from lungline.errors import LunglineError

_DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"
_LARGEST_DIRECTORY = 256 * 2**20


def is_dicomdir(path: Path) -> bool:
    """Whether a file is a DICOMDIR, whatever its name is."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return head[128:132] == b"DICM" and _DIRECTORY_CLASS in head[:400]


def media_entries(path: Path, entry: Callable[[Path, str], Entry]) -> list[Entry]:
    """The files that a DICOMDIR names; `entry` makes one of a path and a name. Raises LunglineError."""
    top = path.parent
    entries: dict[str, Entry] = {}
    for parts in _references(path):
        name = "/".join(parts)
        target = _on_disc(top, parts)
        if target is None:
            entries[name] = Entry(printable(name), fault="The DICOMDIR names it, and it is not there.")
        elif not target.resolve().is_relative_to(top.resolve()):
            entries[name] = Entry(printable(name), fault="It leads out of the folder of the DICOMDIR.")
        else:
            entries[name] = entry(target, name)
    return list(entries.values())


def _references(path: Path) -> list[tuple[str, ...]]:
    import pydicom

    if path.stat().st_size > _LARGEST_DIRECTORY:
        raise LunglineError(f"The DICOMDIR {printable(str(path))} is too large to be one.")
    try:
        with _quiet():
            records: Any = pydicom.dcmread(path).DirectoryRecordSequence
            names = [record.get("ReferencedFileID") for record in records]
    except Exception as exc:  # pydicom names no closed set of errors for damaged files
        raise LunglineError(f"The DICOMDIR {printable(str(path))} cannot be read ({type(exc).__name__}).") from exc
    if not any(names):
        raise LunglineError(f"The DICOMDIR {printable(str(path))} names no file, or is damaged.")
    return [(name,) if isinstance(name, str) else tuple(map(str, name)) for name in names if name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's remarks on what other systems write, which quote it: it may be a patient's name."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _on_disc(top: Path, parts: tuple[str, ...]) -> Path | None:
    """The path of a reference; discs may show names in lower case, which a DICOMDIR writes in capitals."""
    path = top
    for part in parts:
        if not (path / part).exists():
            try:
                alike = [name for name in os.listdir(path) if name.lower() == part.lower()]  # noqa: PTH208 - names only
            except OSError:
                return None
            if len(alike) != 1:
                return None
            part = alike[0]  # noqa: PLW2901 - the same part as it is written here
        path /= part
    return path
