"""A child process that cannot outlive its parent and takes its own children with it.

Each service leads a process group of its own, and signals go to the whole group. When the parent is killed, the kernel
ends the direct child on Linux (PR_SET_PDEATHSIG), and `laptop/supervision/reaper.py` ends the group on every system.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from laptop.services.service import Command, Service
from lungline.errors import StackError
from lungline.listening import handed_on

_PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.02


class Process:
    """A running process; start it in the main thread, because the kernel ends it with the thread that started it.

    It inherits the listening `sockets`, which stay open when it ends.
    """

    def __init__(self, command: Command, output: int, sockets: Sequence[socket.socket] = ()) -> None:
        try:
            self._popen = subprocess.Popen(
                command.argv,
                env=dict(command.env) | handed_on(sockets),
                cwd=command.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[each.fileno() for each in sockets],
                process_group=0,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - two system calls, no lock, no memory
            )
        except OSError as exc:
            raise StackError(f"{command.argv[0]} cannot be started: {exc.strerror}.") from exc
        self.pid = self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._popen.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, number)

    def stop(self, timeout: float) -> int:
        """End it with SIGTERM, after `timeout` seconds by force; returns its exit code."""
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        return self.sweep()

    def sweep(self) -> int:
        """End it and its children by force; returns its exit code."""
        self.signal(signal.SIGKILL)
        return self._popen.wait()


def birth(pid: int) -> str | None:
    """When a process was started, in the system's own words; None when there is no such process.

    Systems reuse process ids: only together with its birth does an id name one process.
    """
    try:
        if sys.platform == "linux":
            stat = Path(f"/proc/{pid}/stat").read_text()
            state, *fields = stat.rpartition(")")[2].split()
            return None if state == "Z" else fields[18]
        listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
        return listing.stdout.strip() or None
    except OSError:
        return None


def family(pid: int) -> list[int]:
    """A process and its descendants: store and broker are children of their gates."""
    members = [pid]
    for member in members:
        with contextlib.suppress(OSError):  # it has just ended, or the system keeps no such list
            members += map(int, Path(f"/proc/{member}/task/{member}/children").read_text().split())
    return members


def is_working(pid: int) -> bool:
    """Whether a thread of a process or of its children runs, or waits for a processor or a disk; False if unknown."""
    return any(_works(stat) for member in family(pid) for stat in Path(f"/proc/{member}/task").glob("*/stat"))


def _works(stat: Path) -> bool:
    with contextlib.suppress(OSError):  # the thread has just ended
        return stat.read_text().rpartition(")")[2].split()[0] in {"R", "D"}
    return False


@contextlib.contextmanager
def running(service: Service, log: Path, within: float = 60) -> Iterator[Process]:
    """One service alone, ready, until the context ends. Raises StackError with the last lines of its log."""
    with log.open("ab") as output:
        process = Process(service.command(), output.fileno())
    try:
        deadline = time.monotonic() + within
        while service.probe(process.pid) == "starting":
            if process.exit_code is not None or time.monotonic() > deadline:
                raise StackError(f"The {service.name} has not started: {tail(log)}")
            time.sleep(POLL_SECONDS)
        yield process
    finally:
        process.stop(service.stop_timeout)


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, as one line."""
    try:
        text = log.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return "it has no log."
    filled = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(filled[-lines:]) or "its log is empty."


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the signal was set
            os._exit(1)

    return set_death_signal
