"""What becomes of processes whose parent has ended."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laptop.home.lock import is_locked, take_lock
from laptop.services.process import Process, birth
from laptop.services.service import Command
from laptop.supervision import reaper
from laptop.supervision.status import ServiceStatus, StackStatus, read_status, write_status
from laptop.supervision.supervisor import end_leftovers
from lungline.errors import StackError
from lungline.home import Home

# A process with a child of its own; both ignore polite requests.
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[Process, int]]:
    """A stubborn process and the id of its child."""
    read, write = os.pipe()
    process = Process(Command((sys.executable, "-c", STUBBORN), os.environ, tmp_path), write)
    os.close(write)
    with os.fdopen(read) as said:
        yield process, int(said.readline())
    process.stop(0)


def test_stopping_a_process_ends_its_children_too(stubborn: tuple[Process, int]) -> None:
    process, child = stubborn
    assert birth(process.pid)
    assert birth(child)
    assert process.stop(0.2) == -9
    eventually(lambda: birth(child) is None)


def test_the_leash_ends_the_groups_of_a_supervisor_that_was_killed(stubborn: tuple[Process, int]) -> None:
    process, child = stubborn
    with subprocess.Popen((sys.executable, "-I", "-S", reaper.__file__), stdin=subprocess.PIPE, text=True) as tied:
        assert tied.stdin
        tied.stdin.write(f"+{process.pid}\n+{2**22 + 1}\n-{2**22 + 1}\n")
        tied.stdin.close()  # as the system does when the supervisor is killed
        eventually(lambda: birth(child) is None and process.exit_code is not None)
    assert tied.returncode == 0


def test_the_leash_touches_nobody_when_the_supervisor_says_that_it_is_done(stubborn: tuple[Process, int]) -> None:
    process, _ = stubborn
    subprocess.run((sys.executable, "-I", "-S", reaper.__file__), input=f"+{process.pid}\n.\n", text=True, check=True)
    assert process.exit_code is None


def test_what_a_killed_supervisor_left_is_ended_but_nobody_who_has_only_its_id(
    stubborn: tuple[Process, int], tmp_path: Path
) -> None:
    process, _ = stubborn
    home = Home.make(tmp_path / "home")

    def note(born: str | None) -> None:
        service = ServiceStatus("store", "ready", pid=process.pid, birth=born)
        write_status(home, StackStatus(home.path, True, 1, (service,), "long ago"))

    note("another time")
    end_leftovers(home)
    assert process.exit_code is None
    note(birth(process.pid))
    end_leftovers(home)
    eventually(lambda: process.exit_code is not None)


def test_the_status_of_a_supervisor_that_is_gone_is_not_believed(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    write_status(home, StackStatus(home.path, True, os.getpid(), (ServiceStatus("store", "ready", pid=1),), "long ago"))
    status = read_status(home)
    assert not status.running
    assert status.service("store") == ServiceStatus("store", "stopped")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    assert not is_locked(home)
    handle = take_lock(home)
    assert is_locked(home)
    with pytest.raises(StackError, match="already"):
        take_lock(home, seconds=0)
    os.close(handle)
    assert not is_locked(home)


def test_a_program_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"^/nowhere/weed cannot be started: No such file or directory\.$"):
        Process(Command(("/nowhere/weed",), os.environ, tmp_path), 1)


def test_a_home_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"^The home folder .*file/home cannot be made: "):
        Home.make(tmp_path / "file" / "home")
