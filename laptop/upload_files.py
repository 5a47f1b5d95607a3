"""Which files `lungline upload` takes, and the object keys it gives them."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungline.errors import LunglineError
from lungline.events.uploads import MAX_KEY_BYTES
from lungline.litter import is_litter
from lungline.wording import count

# Bytes of a file name that are not UTF-8, as Python holds them, which no key may have; control characters, which nobody
# can read; and the backslash, which the store turns into a slash.
_UNFIT = re.compile(r"[\udc80-\udcff\x00-\x1f\x7f-\x9f\\]")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file and the key that it is uploaded under."""

    path: Path
    key: str

    def read(self) -> bytes:
        """The file's content. Raises LunglineError."""
        try:
            return self.path.read_bytes()
        except OSError as exc:
            raise LunglineError(f"The file {self.path} cannot be read: {exc.strerror}.") from exc


@dataclass(frozen=True, slots=True)
class Selection:
    """The files to upload, and remarks that a person should see."""

    files: tuple[ImageFile, ...]
    remarks: tuple[str, ...]


def select(paths: Sequence[str], prefix: str = "") -> Selection:
    """The files among the paths and in the folders among them, each once, without what operating systems leave there.

    A key is the prefix and the file's name; for a file in a folder, the prefix and its path from that folder's name on.
    Files whose keys would be equal get as many of their parent folders' names in front as tell them apart.

    Raises LunglineError for a path that is not a file or folder, and for a key that the store cannot hold.
    """
    entries = [entry for path in paths for entry in _files(path)]
    depths: dict[Path, int] = {}
    for path, depth in entries:
        if not is_litter("/".join(path.parts[-depth:])):
            depths.setdefault(path, depth)
    shortest = dict(depths)
    keys = _keys(depths, prefix)
    if not keys:
        raise LunglineError("There is no file to upload." if not entries else "There is no X-ray among these files.")
    longer = [path for path in keys if depths[path] > shortest[path]]
    passed_over = len({path for path, _ in entries}) - len(keys)
    twice = len(entries) - len({path for path, _ in entries})
    return Selection(
        tuple(ImageFile(path, _require_key(path, key)) for path, key in keys.items()),
        tuple(_remarks(keys, longer, passed_over, twice)),
    )


def _files(path: str) -> Iterator[tuple[Path, int]]:
    """Absolute paths of files, each with how many of its last names make its key."""
    # Without following links, because two links are two names; and "" is not the current folder.
    top = Path(os.path.abspath(path) if path else "")  # noqa: PTH100
    try:
        mode = os.stat(top if path else "").st_mode  # noqa: PTH116 - Path("") is the current folder
        if stat.S_ISDIR(mode):
            yield from _files_in(top)
        elif stat.S_ISREG(mode):
            yield top, 1
        else:
            raise LunglineError(f"{path} is not a file or folder.")
    except (OSError, ValueError) as exc:
        raise LunglineError(f"{path!r} cannot be read: {getattr(exc, 'strerror', None) or exc}.") from exc


def _files_in(top: Path) -> Iterator[tuple[Path, int]]:
    def stop(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(top, onerror=stop):
        folders.sort()
        depth = len(Path(folder).relative_to(top).parts) + 2
        yield from ((file, depth) for name in sorted(names) if (file := Path(folder) / name).is_file())


def _keys(depths: dict[Path, int], prefix: str) -> dict[Path, str]:
    """The keys of files; raises `depths` where keys would be equal."""
    while True:
        keys = {path: prefix + _escaped("/".join(path.parts[-depth:]).lstrip("/")) for path, depth in depths.items()}
        uses = Counter(keys.values())
        clashes = [path for path, key in keys.items() if uses[key] > 1 and depths[path] < len(path.parts)]
        if not clashes:
            return keys
        for path in clashes:
            depths[path] += 1


def _escaped(name: str) -> str:
    """The name as UTF-8 whatever the locale is, with what no key may have in percent escapes."""
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return _UNFIT.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", text)


def _require_key(path: Path, key: str) -> str:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise LunglineError(f"The key of {path} has more than {MAX_KEY_BYTES} bytes, the limit of S3: shorten it.")
    return key


def _remarks(keys: dict[Path, str], longer: list[Path], passed_over: int, twice: int) -> Iterator[str]:
    if longer:
        shown = ", ".join(keys[path] for path in longer[:3]) + (", ..." if len(longer) > 3 else "")
        yield f"Files of the same name get their folder's name in front: {shown}."
    if twice:
        yield f"{count(twice, 'file')} given more than once: uploaded once."
    if passed_over:
        yield f"{count(passed_over, 'file')} of the operating system passed over."
