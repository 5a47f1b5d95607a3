"""The process (`reaper`) that ends the services when the supervisor is killed; it learns of each start and end."""

import contextlib
import os
import subprocess
import sys

from laptop.supervision import reaper

REAPER_SECONDS = 2.0


class Reaper:
    """The reaper's process, which ends what is left when this process ends without `close`."""

    def __init__(self) -> None:
        read, self._pipe = os.pipe()
        self._process = subprocess.Popen(
            (sys.executable, "-I", "-S", reaper.__file__), stdin=read, start_new_session=True
        )
        os.close(read)

    def add(self, pid: int) -> None:
        """Name a process group that has been started."""
        self._write(f"+{pid}")

    def remove(self, pid: int) -> None:
        """Name a process group that has ended."""
        self._write(f"-{pid}")

    def close(self) -> None:
        """End the reaper; nothing is left that it should end."""
        self._write(".")
        os.close(self._pipe)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAPER_SECONDS)

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the reaper was killed; the kernel's protection remains
            os.write(self._pipe, f"{line}\n".encode())
