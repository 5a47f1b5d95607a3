"""The folder that objects are received into before they are stored, with a bound on all of it."""

import contextlib
import shutil
import threading
from pathlib import Path

from gateway import metrics

# What must stay free on the disk: the stack beside it stops below this.
RESERVE_BYTES = 64 * 2**20


class Spool:
    """Files of objects in transfer; those that an earlier process left are deleted at the start."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        metrics.SPOOL_LIMIT.set(max_bytes)
        self._sizes: dict[Path, int] = {}
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink(missing_ok=True)

    @property
    def used(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def take(self, path: Path, size: int) -> bool:
        """Whether a file may grow by `size` bytes."""
        with self._lock:
            used = sum(self._sizes.values())
            if used + size > self._max_bytes or shutil.disk_usage(self.folder).free < size + RESERVE_BYTES:
                return False
            self._sizes[path] = self._sizes.get(path, 0) + size
            metrics.SPOOLED.set(used + size)
            return True

    def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self.give_back(path)

    def give_back(self, path: Path) -> None:
        """Count a file no more."""
        with self._lock:
            self._sizes.pop(path, None)
            metrics.SPOOLED.set(sum(self._sizes.values()))
