"""A disk that forgets what was not synced: ext4 in a file, shut down as a power cut would shut it down.

ext4's own call for this (EXT4_IOC_SHUTDOWN without flushing its journal; xfstests uses it too) drops every page and
every name that is only in memory. The mount options take away what would hide a missing fsync: the journal is written
only when somebody asks, and a rename does not write the file that is renamed.
"""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPTIONS = "loop,noatime,commit=600,noauto_da_alloc"
SIZE = 4 * 2**30
UMOUNT_SECONDS = 30.0
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = struct.pack("I", 2)


def fault() -> str | None:
    """Why this machine can have no such disk; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a disk needs Linux and root"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    if missing or not Path("/dev/loop-control").exists():
        return f"a disk in a file needs {missing[0] if missing else '/dev/loop-control'}"
    return None


class ForgetfulDisk:
    """One disk, mounted at `path`."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "disk.img"
        self.path = folder / "disk"

    def format(self) -> None:
        """Make its file system."""
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(SIZE)
        _run("mkfs.ext4", "-q", str(self._image))

    def mount(self) -> None:
        """Switch it on; ext4 replays its journal, as after a power cut."""
        _run("mount", "-o", OPTIONS, str(self._image), str(self.path))

    def cut(self) -> None:
        """Forget whatever was not synced; from here on every access fails."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, _WITHOUT_FLUSHING)
        finally:
            os.close(handle)

    def unmount(self) -> None:
        """Switch it off, once the last process that used it has ended."""
        deadline = time.monotonic() + UMOUNT_SECONDS
        while os.path.ismount(self.path):
            with suppress(subprocess.CalledProcessError):
                _run("umount", str(self.path))
                return
            assert time.monotonic() < deadline, f"{self.path} is in use"
            time.sleep(0.1)

    @contextmanager
    def writing_back(self, seed: int, every: float = 0.3) -> Iterator[None]:
        """Now and then write one file to the disk, as the kernel does in an order of its own."""
        stop, chance = threading.Event(), random.Random(seed)
        thread = threading.Thread(target=self._write_back, args=(stop, chance, every))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _write_back(self, stop: threading.Event, chance: random.Random, every: float) -> None:
        while not stop.wait(chance.uniform(0, 2 * every)):
            with suppress(OSError, IndexError):  # removed in this moment, or the disk is cut
                files = sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
                handle = os.open(chance.choice(files), os.O_RDONLY)
                try:
                    os.fdatasync(handle)
                finally:
                    os.close(handle)


@contextmanager
def forgetful_disk(folder: Path) -> Iterator[ForgetfulDisk]:
    """A new disk, mounted; nothing of it is left afterwards."""
    disk = ForgetfulDisk(folder)
    disk.format()
    disk.mount()
    try:
        yield disk
    finally:
        try:
            disk.unmount()
        except BaseException:
            _run("umount", "--lazy", str(disk.path))
            raise
        finally:
            disk._image.unlink()  # noqa: SLF001 - its own


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=120)
