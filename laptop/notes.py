"""Notes that a part without an address of its own leaves in the home folder: whether it is ready, what it has done."""

import os
from typing import Any

from laptop.home import Home, read_json, write_private
from laptop.part import State


def leave_note(home: Home, part: str, state: State, **facts: int) -> None:
    """Leave this process's note, in place of the last one."""
    write_private(home.file("run", f"{part}.json"), {"pid": os.getpid(), "state": state, **facts})


def find_note(home: Home, part: str) -> dict[str, Any]:
    """The last note of a part, whichever process left it; empty when there is none."""
    note = read_json(home.file("run", f"{part}.json"))
    return note if isinstance(note, dict) else {}


def noted_state(home: Home, part: str, pid: int) -> State:
    """What the process with this id has noted of itself; `starting` when it has not."""
    note = find_note(home, part)
    return note["state"] if note.get("pid") == pid else "starting"
