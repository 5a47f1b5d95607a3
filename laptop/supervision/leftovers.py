"""What a killed supervisor has left running."""

import contextlib
import os
import signal
import time
from dataclasses import astuple

from laptop.home.ports import load_ports
from laptop.services.process import birth
from laptop.supervision.status import read_leftovers
from lungline.home import Home
from lungline.network import is_free


def end_leftovers(home: Home) -> None:
    """End services that a killed supervisor has left running, because they hold the ports of the new ones."""
    leftovers = [(pid, born) for pid, born in read_leftovers(home) if birth(pid) == born]
    for pid, _ in leftovers:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(birth(pid) == born for pid, born in leftovers) and time.monotonic() < deadline:
        time.sleep(0.02)
    ports = load_ports(home)
    deadline = time.monotonic() + 2  # their children let go of the ports a moment later
    while leftovers and ports and not all(map(is_free, astuple(ports))) and time.monotonic() < deadline:
        time.sleep(0.02)
