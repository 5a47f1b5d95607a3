"""Run a command in namespaces of its own: network, processes and mounts end with it, whatever ends it.

    python -m tests.cluster.isolation COMMAND [ARGUMENT ...]

All ports are free there, so several clusters run beside each other. The first process reaps orphans and passes signals
on; when it ends, the kernel kills every process of the namespace and removes its bridges, routes and mounts.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

TOOLS = ("unshare", "setpriv", "ip", "mount")
INSIDE = "--inside"
# The namespace's first process is killed with unshare, and unshare with its own parent.
_UNSHARE = (
    "unshare",
    "--net",
    "--pid",
    "--mount",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
    "--propagation=private",
)
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


def isolated(command: list[str], *, with_parent: bool = True) -> list[str]:
    """The command line that runs `command` in namespaces of its own; `with_parent` lets it end when its parent does."""
    inner = [*_UNSHARE, sys.executable, "-m", "tests.cluster.isolation", INSIDE, *command]
    return [*_WITH_PARENT, *inner] if with_parent else inner


def enter(command: list[str], *, with_parent: bool = True) -> NoReturn:
    """Become that command; does not return."""
    line = isolated(command, with_parent=with_parent)
    os.execvp(line[0], line)


def is_isolated() -> bool:
    """Whether this process is in such a namespace: its first process is this module."""
    try:
        return b"tests.cluster.isolation" in Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False


def prepare() -> None:
    """What a new namespace lacks: the loopback device, and a place for the names of further network namespaces."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "netns", "/run/netns"], check=True)


def supervise(command: list[str]) -> int:
    """Run a command as the first process of a namespace must: reap every orphan, pass signals on."""
    prepare()
    process = subprocess.Popen(command)

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the command as well
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        sys.exit(supervise(sys.argv[2:]))
    enter(sys.argv[1:])
