"""A copy of a home leaves the original's processes alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop.services.process import birth
from laptop.supervision.leftovers import end_leftovers
from laptop.supervision.status import ServiceStatus, StackStatus, write_status
from lungline.home import Home


@pytest.fixture
def service() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0) as process:
        yield process
        process.kill()


@pytest.fixture
def home(tmp_path: Path, service: "subprocess.Popen[bytes]") -> Home:
    """A home whose status names a process that runs."""
    home = Home.make(tmp_path / "original")
    status = ServiceStatus("store", "ready", pid=service.pid, birth=birth(service.pid))
    write_status(home, StackStatus(home.path, True, os.getpid(), (status,)))
    return home


def test_a_start_in_a_copy_spares_the_original(home: Home, service: "subprocess.Popen[bytes]") -> None:
    copy = shutil.copytree(home.path, home.path.with_name("copy"))
    end_leftovers(Home(copy))
    assert service.poll() is None


def test_leftovers_of_a_renamed_home_are_ended(home: Home, service: "subprocess.Popen[bytes]") -> None:
    end_leftovers(Home(home.path.rename(home.path.with_name("renamed"))))
    assert service.wait(10) < 0
