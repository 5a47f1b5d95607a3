"""State files in the home folder: how a service without an HTTP address reports its state and counters."""

import math
import os
import time
from typing import Any, Literal, cast

from lungline.home import Home, read_json, write_json

State = Literal[
    "starting",  # its process runs and does not answer yet
    "ready",
    "waiting",  # its process runs; the store or the broker that it needs does not answer
    "waiting for a champion",  # a predictor without a model
    "not ready",  # a predictor that has not loaded its model; its log says why
    "not ready: another program answers",  # whoever listens at its port does not prove that it is this stack's
    "not answering",  # its process runs, and gives no sign: it hangs
    "restarting",  # its process ended by itself; the next one starts after a pause
    "stopped",
    "external",  # not ours: the settings name another one
]


HEARTBEAT_SECONDS = 2.0
"""How often a service that does nothing writes its state all the same."""
STALE_SECONDS = 8.0
"""A state that is older proves nothing: its service hangs, or cannot write."""


def write_state(home: Home, service: str, state: State, **counters: int) -> bool:
    """Replace the state file of this process's service; False when the disk does not take it."""
    value = {"pid": os.getpid(), "state": state, "at": time.monotonic(), **counters}
    try:
        write_json(home.file("run", f"{service}.json"), value)
    except OSError:
        return False
    return True


def read_state(home: Home, service: str) -> dict[str, Any]:
    """The state file of a service, whichever process wrote it; empty when there is none."""
    document = read_json(home.file("run", f"{service}.json"))
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def state_of(home: Home, service: str, pid: int) -> State:
    """The state that a process has written; `starting` when it has written none, `not answering` when it is old."""
    document = read_state(home, service)
    if document.get("pid") != pid:
        return "starting"
    return document["state"] if age_of(document) < STALE_SECONDS else "not answering"


def age_of(document: dict[str, Any]) -> float:
    """Seconds since a state was written, on the clock that all processes of this machine share."""
    at = document.get("at")
    return time.monotonic() - at if isinstance(at, (int, float)) else math.inf


def number_of(document: dict[str, Any], name: str) -> int:
    """A counter in a state file; 0 for one that is no number."""
    value = document.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**63 else 0
