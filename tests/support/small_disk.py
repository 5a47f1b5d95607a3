"""A disk that is soon full: a few megabytes of memory, mounted over a folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int = 8) -> Iterator[Path]:
    """The folder on a disk of its own; skips the test where none can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a disk needs Linux and root")
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "lungline-test", str(folder)]
    if subprocess.run(mount, capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("this system lets nobody mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True, timeout=20)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No byte more fits on the folder's disk while the context lasts."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        system = os.statvfs(folder)
        with suppress(OSError):  # at once where the file system can
            os.posix_fallocate(file.fileno(), 0, system.f_bfree * system.f_frsize)
        file.seek(0, os.SEEK_END)
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()
