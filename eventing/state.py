"""Notes that a part without an address of its own leaves in the home folder: whether it is ready, what it has done."""

import os
from typing import Any, Literal, cast

from lungline.home import Home, read_json, write_json

State = Literal[
    "starting",  # its process runs and does not answer yet
    "ready",
    "waiting",  # its process runs; the store or the broker that it needs does not answer
    "waiting for a champion",  # a predictor without a model
    "not ready",  # a predictor that has not taken its model; its log says why
    "restarting",  # its process ended by itself; the next one starts after a pause
    "stopped",
    "external",  # not ours: the settings name another one
]


def write_state(home: Home, part: str, state: State, **facts: int) -> None:
    """Leave this process's note, in place of the last one."""
    write_json(home.file("run", f"{part}.json"), {"pid": os.getpid(), "state": state, **facts})


def read_state(home: Home, part: str) -> dict[str, Any]:
    """The last note of a part, whichever process left it; empty when there is none."""
    note = read_json(home.file("run", f"{part}.json"))
    return cast("dict[str, Any]", note) if isinstance(note, dict) else {}


def state_of(home: Home, part: str, pid: int) -> State:
    """What the process with this id has noted of itself; `starting` when it has not."""
    note = read_state(home, part)
    return note["state"] if note.get("pid") == pid else "starting"
