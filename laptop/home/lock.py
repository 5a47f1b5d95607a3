"""The lock that a running stack holds in its home folder; the system releases it however its holder ends."""

import fcntl
import os
import time

from lungline.errors import StackError
from lungline.home import Home


def take_lock(home: Home, seconds: float = 1.0) -> int:
    """Take the lock until this process ends. Raises StackError when another process still holds it after `seconds`."""
    try:
        handle = os.open(home.file("lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise StackError(f"The home folder {home.path} cannot be used: {exc.strerror}.") from exc
    deadline = time.monotonic() + seconds
    while not _try(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise StackError(f"A stack already runs in {home.path}: `lungline status` shows it.")
        time.sleep(0.02)
    return handle


def is_locked(home: Home) -> bool:
    """Whether a supervisor runs in this home."""
    try:
        handle = os.open(home.file("lock"), os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StackError(f"The home folder {home.path} cannot be used: {exc.strerror}.") from exc
    try:
        return not _try(handle)
    finally:
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
