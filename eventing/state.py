"""State files in the home folder: how a service without an HTTP address reports its state and counters."""

import os
from typing import Any, Literal, cast

from lungline.home import Home, read_json, write_json

State = Literal[
    "starting",  # its process runs and does not answer yet
    "ready",
    "waiting",  # its process runs; the store or the broker that it needs does not answer
    "waiting for a champion",  # a predictor without a model
    "not ready",  # a predictor that has not loaded its model; its log says why
    "restarting",  # its process ended by itself; the next one starts after a pause
    "stopped",
    "external",  # not ours: the settings name another one
]


def write_state(home: Home, service: str, state: State, **counters: int) -> None:
    """Replace the state file of this process's service."""
    write_json(home.file("run", f"{service}.json"), {"pid": os.getpid(), "state": state, **counters})


def read_state(home: Home, service: str) -> dict[str, Any]:
    """The state file of a service, whichever process wrote it; empty when there is none."""
    document = read_json(home.file("run", f"{service}.json"))
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def state_of(home: Home, service: str, pid: int) -> State:
    """The state that the process with this id has written; `starting` when it has not."""
    document = read_state(home, service)
    return document["state"] if document.get("pid") == pid else "starting"
