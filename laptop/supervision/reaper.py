"""Ends the services of a supervisor that was killed. It imports nothing of ours, so that it starts at once.

The supervisor writes `+PID` for each process group it starts and `-PID` for each that has ended. When the pipe breaks
without a last `.`, the supervisor was killed, and every group that is left is ended.
"""

import contextlib
import os
import signal
import sys
import time

STOP_SECONDS = 2.0


def main() -> None:
    """Read until the supervisor ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        if line == ".\n":
            return
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and _signal(groups, 0):
        time.sleep(0.05)
    _signal(groups, signal.SIGKILL)


def _signal(groups: set[int], number: int) -> bool:
    """Signal all groups; returns whether any exists."""
    exists = False
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            exists = True
    return exists


if __name__ == "__main__":
    main()
