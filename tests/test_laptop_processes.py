"""Processes whose parent has ended, and what the home folder says of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop.home.lock import is_locked, take_lock
from laptop.services.process import Process, birth
from laptop.services.service import Command
from laptop.supervision import reaper
from laptop.supervision.leftovers import end_leftovers
from laptop.supervision.status import ServiceStatus, StackStatus, read_leftovers, read_status, write_status
from lungline.errors import StackError
from lungline.home import Home, write_json
from tests.support.waiting import eventually

# A process with a child of its own; both ignore polite requests.
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[Process, int]]:
    """A stubborn process and the id of its child."""
    read, write = os.pipe()
    process = Process(Command((sys.executable, "-c", STUBBORN), os.environ, tmp_path), write)
    os.close(write)
    with os.fdopen(read) as output:
        yield process, int(output.readline())
    process.stop(0)


def test_stopping_a_process_ends_its_children_too(stubborn: tuple[Process, int]) -> None:
    process, child = stubborn
    assert birth(process.pid)
    assert birth(child)
    assert process.stop(0.2) == -9
    eventually(lambda: birth(child) is None)


def test_the_reaper_ends_the_services_of_a_killed_supervisor(stubborn: tuple[Process, int]) -> None:
    process, child = stubborn
    with subprocess.Popen((sys.executable, "-I", "-S", reaper.__file__), stdin=subprocess.PIPE, text=True) as running:
        assert running.stdin
        running.stdin.write(f"+{process.pid}\n+{2**22 + 1}\n-{2**22 + 1}\n")
        running.stdin.close()  # as the system does when the supervisor is killed
        eventually(lambda: birth(child) is None and process.exit_code is not None)
    assert running.returncode == 0


def test_the_reaper_does_nothing_after_an_orderly_end(stubborn: tuple[Process, int]) -> None:
    process, _ = stubborn
    subprocess.run((sys.executable, "-I", "-S", reaper.__file__), input=f"+{process.pid}\n.\n", text=True, check=True)
    assert process.exit_code is None


def test_leftovers_are_ended_by_pid_and_birth(stubborn: tuple[Process, int], tmp_path: Path) -> None:
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


def test_the_status_of_an_ended_supervisor_does_not_count(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    write_status(home, StackStatus(home.path, True, os.getpid(), (ServiceStatus("store", "ready", pid=1),), "long ago"))
    status = read_status(home)
    assert not status.running
    assert status.service("store") == ServiceStatus("store", "stopped")


def test_a_status_written_by_0_1_is_read(tmp_path: Path) -> None:
    """Until 0.1 the services of supervisor.json were named `parts`."""
    home = Home.make(tmp_path)
    part = {"name": "store", "state": "ready", "pid": 7, "address": None, "restarts": 2, "ready_seconds": 0.4}
    part |= {"note": None, "birth": "long ago", "metrics": None}
    write_json(home.file("supervisor.json"), {"pid": 6, "parts": [part], "birth": "long ago"})
    assert read_status(home).service("store") == ServiceStatus("store", "stopped", restarts=2, ready_seconds=0.4)
    assert read_leftovers(home) == [(7, "long ago")]


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    assert not is_locked(home)
    handle = take_lock(home)
    assert is_locked(home)
    with pytest.raises(StackError, match="already"):
        take_lock(home, seconds=0)
    os.close(handle)
    assert not is_locked(home)


def test_a_missing_program_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"^/nowhere/weed cannot be started: No such file or directory\.$"):
        Process(Command(("/nowhere/weed",), os.environ, tmp_path), 1)


def test_an_impossible_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"^The home folder .*file/home cannot be made: "):
        Home.make(tmp_path / "file" / "home")
