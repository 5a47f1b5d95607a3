"""What is known of a stack: the supervisor writes it into the home folder, everybody else reads it there."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eventing.state import State
from laptop.home.lock import is_locked
from laptop.services.process import birth as process_birth
from lungline.home import Home, read_json, write_json


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One part, as far as a person or a script asks."""

    name: str
    state: State
    pid: int | None = None
    address: str | None = None
    restarts: int = 0
    ready_seconds: float | None = None
    """From its start until it was ready."""
    note: str | None = None
    """One sentence on anything out of the ordinary."""
    birth: str | None = None
    """When the process was started, in the system's own words: it makes the pid certain."""
    metrics: str | None = None
    """Where Prometheus finds its figures."""


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The whole stack."""

    home: Path
    running: bool
    pid: int | None
    """Of the supervisor."""
    parts: tuple[ServiceStatus, ...]
    birth: str | None = None

    def part(self, name: str) -> ServiceStatus:
        """One part; `stopped` if the stack has never had it."""
        return next((part for part in self.parts if part.name == name), ServiceStatus(name, "stopped"))


def write_status(home: Home, status: StackStatus) -> None:
    """Publish the status of a running stack."""
    value = asdict(status)
    del value["home"], value["running"]
    write_json(home.file("supervisor.json"), value)


def read_status(home: Home) -> StackStatus:
    """The status of the stack in a home; all parts are `stopped` when no supervisor lives there."""
    known = read_json(home.file("supervisor.json"))
    try:
        parts = tuple(ServiceStatus(**part) for part in known["parts"]) if known else ()
        pid, birth = (known["pid"], known["birth"]) if known else (None, None)
    except (TypeError, KeyError):  # of another version
        parts, pid, birth = (), None, None
    running = is_locked(home)
    if running and pid and process_birth(pid) == birth:
        return StackStatus(home.path, True, pid, parts, birth)
    # A supervisor that has just started has not written yet; what is there is the last one's.
    return StackStatus(home.path, running, None, tuple(_stopped(part) for part in parts))


def read_leftovers(home: Home) -> list[tuple[int, str]]:
    """Pid and birth of each process that the last supervisor noted: after a crash some may still run."""
    known: Any = read_json(home.file("supervisor.json")) or {}
    parts = known.get("parts", []) if isinstance(known, dict) else []
    return [(part["pid"], part["birth"]) for part in parts if part.get("pid") and part.get("birth")]


def _stopped(part: ServiceStatus) -> ServiceStatus:
    if part.state == "external":
        return part
    return replace(part, state="stopped", pid=None, birth=None)
