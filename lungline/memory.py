"""A budget of memory that the threads of a process share: large images wait for each other instead of adding up."""

import ctypes
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lungline.errors import Busy, ImageRefused

_WAIT_SECONDS = 30.0
# Freed memory below this is used again soon; returning it to the system costs more than it frees.
_WORTH_RETURNING = 32 * 2**20
_LARGEST_DEFAULT = 2 * 2**30


@dataclass(slots=True, eq=False)
class _Scope:
    held: int = 0


class MemoryBudget:
    """A number of bytes, of which threads take what their work needs, and give it back when the work ends.

    Work that needs more than is free waits, at most `wait_seconds`; what needs more than the whole budget runs
    alone, or is refused unless `runs_alone`.
    """

    def __init__(self, size: int, wait_seconds: float = _WAIT_SECONDS, *, runs_alone: bool = True) -> None:
        self.size = size
        self._runs_alone = runs_alone
        self._wait_seconds = wait_seconds
        self._free = size
        self._changed = threading.Condition()
        self._queue: deque[_Scope] = deque()  # work that holds nothing yet, in its order
        self._holding = self._stuck = 0  # work that holds something; the part of it that waits for more
        self._local = threading.local()

    @property
    def free(self) -> int:
        """Bytes that nobody has taken."""
        return self._free

    @contextmanager
    def work(self) -> Generator[None]:
        """What this thread takes inside is given back at the end of the outermost such context."""
        if getattr(self._local, "scope", None) is not None:
            yield
            return
        scope = self._local.scope = _Scope()
        try:
            yield
        finally:
            self._local.scope = None
            if scope.held:
                self._give_back(scope)

    def take(self, size: int) -> None:
        """Take bytes for the work of this thread.

        Raises Busy after `wait_seconds`, or when nobody could give back, and ImageRefused (too-many-pixels).
        """
        scope: _Scope = self._local.scope
        if scope.held + size > self.size and not self._runs_alone:
            raise ImageRefused("too-many-pixels", "The image is too large for the memory of this service.")
        with self._changed:
            size = min(size, self.size - scope.held)
            if self._queue or self._free < size:
                self._wait(scope, size)
            if size > 0:
                self._holding += not scope.held
                self._free -= size
                scope.held += size

    def _wait(self, scope: _Scope, size: int) -> None:
        end = time.monotonic() + self._wait_seconds
        has_some = scope.held > 0
        if has_some:
            # Who holds something does not queue behind those who wait for it.
            self._stuck += 1
        else:
            self._queue.append(scope)
        try:
            while self._free < size or not (has_some or self._queue[0] is scope):
                if has_some and self._stuck == self._holding:
                    raise Busy("Other large images need the memory that this one needs; try again.")
                if not self._changed.wait(end - time.monotonic()):
                    raise Busy("Other large images are in work; try again.")
        finally:
            if has_some:
                self._stuck -= 1
            else:
                self._queue.remove(scope)
            self._changed.notify_all()

    def _give_back(self, scope: _Scope) -> None:
        with self._changed:
            self._free += scope.held
            self._holding -= 1
            self._changed.notify_all()
        if scope.held >= _WORTH_RETURNING:
            return_memory()


def budget_of_process(share: float, *, runs_alone: bool = True) -> MemoryBudget:
    """A budget of this share of the memory that the process may use."""
    return MemoryBudget(round(share * memory_limit()), runs_alone=runs_alone)


def memory_limit() -> int:
    """The bytes that this process may use: its control group's limit, else a quarter of the machine, at most 2 GiB."""
    limits = [limit for file in _limit_files() if (limit := _number(file)) is not None]
    installed = _installed()
    limited = [limit for limit in limits if limit < installed]
    return min(limited) if limited else min(installed // 4, _LARGEST_DEFAULT)


def return_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc); it keeps much of it otherwise."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _limit_files() -> list[Path]:
    """Where the limits may stand, in both versions of control groups, inside and outside of a container."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                files.append(root / path.lstrip("/") / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(root / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return files


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _installed() -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 4 * _LARGEST_DEFAULT
