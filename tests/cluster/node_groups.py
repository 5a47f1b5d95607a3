"""The control groups of a node: the one thing of it that no namespace holds, so it is removed by hand."""

import contextlib
import os
import time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
REMOVE_SECONDS = 10


def make_groups(name: str) -> None:
    """The groups below which the kubelet makes those of pods."""
    remove_groups(name)
    for controller in CONTROLLERS:
        group = GROUPS / controller / name
        group.mkdir(exist_ok=True)
        if controller == "cpuset":  # version 1: a new group has no processors and no memory
            for value in ("cpuset.cpus", "cpuset.mems"):
                (group / value).write_text((group.parent / value).read_text())


def remove_groups(name: str) -> None:
    """Remove the groups of this run or of a killed one, from the leaves up; their processes must have ended."""
    deadline = time.monotonic() + REMOVE_SECONDS
    for top in GROUPS.glob(f"*/{name}"):  # runc makes some in the unified hierarchy, too
        while top.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.05)
