"""What is built once for a whole run of the tests, and read by all its processes."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "TESTS_BUILT_ONCE"
"""The environment variable that names the folder of the run; workers inherit it."""


def begin() -> Path | None:
    """Make the folder of a run; None in a worker, whose run has one already."""
    if FOLDER in os.environ:
        return None
    folder = Path(tempfile.mkdtemp(prefix="built-once-"))
    os.environ[FOLDER] = str(folder)
    return folder


def end(folder: Path | None) -> None:
    """Remove the folder that `begin` made."""
    if folder:
        os.environ.pop(FOLDER, None)
        shutil.rmtree(folder, ignore_errors=True)


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
