"""How far the files of a running store have grown: a store that is killed leaves no list of its files (`store_files`).

Volumes and the logs of the filer's database only grow, and the tables of that database never change. So each file
begins as it did and is no shorter, however the store ended. After a power cut it may be: what was written in the last
seconds was not yet on the disk. Then, and in a copy of a home whose stack ran, it is said, and the store starts.
"""

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lungline.errors import StackError
from lungline.home import Home, read_json, write_json

LIST = ".grown.json"
HEAD_BYTES = 4096
# A volume's first bytes hold how often it was compacted; then it is another file.
_MARK_BYTES = 8
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_log = logging.getLogger(__name__)


class Grown(BaseModel):
    """The list: where it was written, and of each file its size, a checksum of its head, and a volume's mark."""

    place: str
    files: dict[str, tuple[int, int, str]]


def note_growth(home: Home) -> None:
    """List the files of a store that runs; called again and again."""
    data = home.file("store", "data")
    files = {path.relative_to(data).as_posix(): fact for path in _files(data) if (fact := _fact(path))}
    grown = Grown(place=_place(home), files=files).model_dump(mode="json")
    if grown != read_json(data / LIST):
        write_json(data / LIST, grown)


def forget_growth(home: Home) -> None:
    """Remove the list: the store has stopped, or is about to repair its files."""
    (home.file("store", "data") / LIST).unlink(missing_ok=True)


def check_growth(home: Home) -> None:
    """Compare the files of a store that was killed with the list. Raises StackError, which names file and cure."""
    data = home.file("store", "data")
    try:
        grown = Grown.model_validate_json((data / LIST).read_bytes())
    except (OSError, ValidationError):
        return
    for name, noted in grown.files.items():
        if not (what := _change(data / name, noted)):
            continue
        if grown.place != _place(home):
            _log.warning("%s %s: objects of the last seconds may be lost, and `lungline status` says so.", name, what)
            continue
        raise StackError(
            f"{data / name} {what} since the store ran: restore {data} from a backup; or remove {data / LIST}, and "
            "the stack starts with the objects that are left, and says what is lost."
        )


def _change(path: Path, noted: tuple[int, int, str]) -> str | None:
    """What has happened to a file that a running store never does to it; None when nothing has."""
    size, checksum, mark = noted
    if not path.is_file():
        return None if _is_superseded(path) else "was removed"
    if path.suffix == ".dat" and _mark(path) != mark:
        return None  # compacted; its form is looked at in `store_files`
    if path.stat().st_size < size:
        return "was cut"
    return None if _checksum(path, size) == checksum else "has changed"


def _is_superseded(path: Path) -> bool:
    """Whether the filer's database has written newer files: then it removes older ones."""
    others = path.parent.glob("[0-9]*.l*")
    return path.suffix != ".dat" and any(other.name > path.name for other in others)


def _fact(path: Path) -> tuple[int, int, str] | None:
    try:
        size = path.stat().st_size
        return size, _checksum(path, size), _mark(path)
    except FileNotFoundError:  # removed in this moment
        return None


def _checksum(path: Path, size: int) -> int:
    with path.open("rb") as file:
        return zlib.crc32(file.read(min(size, HEAD_BYTES)))


def _mark(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MARK_BYTES).hex() if path.suffix == ".dat" else ""


def _files(data: Path) -> Iterator[Path]:
    for pattern in ("*.dat", "filerldb2/*/*.log", "filerldb2/*/*.ldb"):
        yield from sorted(data.glob(pattern))


def _place(home: Home) -> str:
    """This home on this machine since it was switched on."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else "unknown"
    return f"{boot} {home.path}"
