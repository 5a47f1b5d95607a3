"""A control group with a limit on memory, as a pod has one; needs root and a controller for memory."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group of processes; version 1 and 2 name their files differently."""

    folder: Path
    is_v2: bool

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, run in the group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    @property
    def peak(self) -> int:
        """The most memory it has had, in bytes."""
        return int((self.folder / ("memory.peak" if self.is_v2 else "memory.max_usage_in_bytes")).read_text())

    @property
    def killed(self) -> int:
        """How many processes it has killed for want of memory."""
        text = (self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


@contextmanager
def limited_memory(megabytes: int) -> Iterator[ControlGroup]:
    """A group with this limit; skips the test where none can be made."""
    is_v2 = (ROOT / "cgroup.controllers").exists()
    folder = (ROOT if is_v2 else ROOT / "memory") / f"lungline-test-{os.getpid()}-{megabytes}"
    try:
        folder.mkdir()
        (folder / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(megabytes * 2**20))
    except OSError as exc:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no control group for memory can be made here: {exc.strerror}")
    try:
        yield ControlGroup(folder, is_v2)
    finally:
        folder.rmdir()
