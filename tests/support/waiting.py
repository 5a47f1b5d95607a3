"""Bounded waits."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
