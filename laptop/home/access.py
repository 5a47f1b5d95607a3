"""Whether this user may use every file and folder of a home, and whether each file is one."""

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from lungline.errors import StackError
from lungline.home import Home

# Folders below a model package are the package's own: the predictor compares them with the card.
_MODEL = r"predictor/(models/[^/]+/)?"
_PACKAGES = re.compile(rf".*/{_MODEL}packages")
# Names that only files have. The store's: volumes, the filer's database, the log of its master.
_FILES = re.compile(
    rf"lock|worklist/(secret|login_url)|{_MODEL}current"
    r"|.*\.(json|pem|pub|key|crt|toml|properties|conf|db|db-wal|db-shm|log|html|dat|idx|vif|uuid|options|sock|ss)"
    r"|store/data/filerldb2/\d+/(CURRENT|LOCK|LOG|MANIFEST-\d+)|store/data/m\d+/(conf|log)"
)

# Home.make makes the others.
_FOLDERS = re.compile(rf"store/config|store/data(/filerldb2)?|predictor/models|{_MODEL}(packages|expected)")

_log = logging.getLogger(__name__)


def check_access(home: Home) -> None:
    """Let this user read and write everything in a home that it owns. Raises StackError, which names path and cure."""
    for path in _paths(home.path):
        if path.is_symlink():
            continue
        is_folder = path.is_dir()
        if not is_folder and _FOLDERS.fullmatch(path.relative_to(home.path).as_posix()):
            raise StackError(f"{path} is a file where a folder should be: move it away, then `lungline up`.")
        if is_folder and _FILES.fullmatch(path.relative_to(home.path).as_posix()):
            raise StackError(f"{path} is a folder where a file should be: move it away, then `lungline up`.")
        _open_up(path, os.R_OK | os.W_OK | (os.X_OK if is_folder else 0))


def _paths(folder: Path) -> Iterator[Path]:
    """Everything below a folder; a folder comes before what is in it, so that it can be opened up first."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            yield path
            if entry.is_dir(follow_symlinks=False) and not _PACKAGES.fullmatch(path.as_posix()):
                yield from _paths(path)


def _open_up(path: Path, wanted: int) -> None:
    if os.access(path, wanted):
        return
    facts = path.stat()
    try:
        path.chmod(stat.S_IMODE(facts.st_mode) | (0o700 if stat.S_ISDIR(facts.st_mode) else 0o600))
    except OSError as exc:
        raise StackError(
            f"{path} cannot be read and written, and belongs to user {facts.st_uid}: `chown` it to yourself, then "
            "`lungline up`."
        ) from exc
    if not os.access(path, wanted):  # a disk that is mounted for reading only
        raise StackError(f"{path} cannot be read and written: make its disk writable, then `lungline up`.")
    _log.warning("%s could not be read and written: its permissions are set again.", path)
