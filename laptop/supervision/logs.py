"""Log files of the services: bounded, and without object keys.

The object store's messages contain keys of uploads, which may contain names of patients. So a line is cut after the
name of the uploads bucket.
"""

import contextlib
import os
import re
from pathlib import Path

MAX_BYTES = 5 * 2**20
KEPT = 2
_LONGEST_LINE = 16 * 2**10


class LogFile:
    """The log of one service. A full file is renamed to `NAME.log.1`, and that one to `NAME.log.2`."""

    def __init__(self, path: Path, private: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._private = re.compile(rb"(\b" + re.escape(private.encode()) + rb")[/ :].*")
        self._rest = b""
        self._file = self._open()

    def write(self, data: bytes) -> None:
        """Append output of the service; an incomplete line is held until its end arrives."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        if lines:
            self._append(b"".join(self._private.sub(rb"\1/...", line) + b"\n" for line in lines))

    def close(self) -> None:
        """Write the incomplete last line, and close the file."""
        if self._rest:
            self.write(b"\n")
        self._file.close()

    def _append(self, data: bytes) -> None:
        """What a full disk does not take is lost, and nothing else."""
        with contextlib.suppress(OSError):
            if self._file.tell() + len(data) > self._max_bytes and self._file.tell():
                self._begin_another()
            self._file.write(data)

    def _begin_another(self) -> None:
        for number in range(KEPT, 0, -1):
            older = self._path.with_suffix(f".log.{number}")
            newer = self._path.with_suffix(f".log.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        full, self._file = self._file, self._open()
        full.close()

    def _open(self):
        # Without a buffer, which would keep what a full disk has refused and write it in the wrong place.
        return os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0)
