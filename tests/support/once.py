"""What is built once for a whole run of the tests, and read by all its processes."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FOLDER = "TESTS_BUILT_ONCE"
"""The environment variable that names the folder of the run; workers inherit it."""

PREFIX, OWNER = "built-once-", "owner"


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of a run, and a lock that ends with its process, however that ends."""

    folder: Path
    lock: IO[str]


def begin() -> Run | None:
    """Make the folder of a run; None in a worker, whose run has one already."""
    if FOLDER in os.environ:
        return None
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = (folder / "draft").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "draft").replace(folder / OWNER)
    os.environ[FOLDER] = str(folder)
    return Run(folder, lock)


def end(run: Run | None) -> None:
    """Remove the folder that `begin` made."""
    if run:
        os.environ.pop(FOLDER, None)
        shutil.rmtree(run.folder, ignore_errors=True)
        run.lock.close()


def _remove_abandoned() -> None:
    """Remove the folders of runs that were killed."""
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{OWNER}"):
        with suppress(OSError), owner.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)


def built_once(name: str, build: Callable[[Path], object]) -> Path:
    """A file or folder that `build` has written to the path it was given; for reading only.

    The first process builds, others wait for it. What fails to build leaves nothing, so the next process tries again.
    """
    place = Path(os.environ[FOLDER]) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            draft = place.with_name(f"{place.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            build(draft)
            draft.replace(place)
    return place
