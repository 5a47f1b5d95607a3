"""The status of a stack: the supervisor writes it into the home folder, and everything else reads it there."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from laptop.home.lock import is_locked
from laptop.services.process import birth as process_birth
from lungline.home import Home, read_json, write_json
from lungline.service_state import State

REPORT_SECONDS = 5.0
"""How often the supervisor writes its status at least."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The status of one service, for a person or a script."""

    name: str
    state: State
    pid: int | None = None
    address: str | None = None
    restarts: int = 0
    started: float | None = None
    """When it was last started, in seconds since 1970."""
    ready_seconds: float | None = None
    """From its start until it was ready."""
    note: str | None = None
    """One sentence on anything out of the ordinary."""
    birth: str | None = None
    """When the process was started, in the system's own words: with it the pid names this process and no other."""
    metrics: str | None = None
    """The address that Prometheus scrapes."""
    silent_since: float | None = None
    """Since when it has given no sign, in seconds since 1970; None while it answers."""
    hangs: int = 0
    """How often it was killed because it gave no sign for too long; each is also one of its restarts."""

    @property
    def remark(self) -> str:
        """For how long it has given no sign, and its note."""
        if self.silent_since is None:
            return self.note or ""
        return f"No sign for {time.time() - self.silent_since:.0f} s. {self.note or ''}".strip()


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The status of the whole stack."""

    home: Path
    running: bool
    pid: int | None
    """Of the supervisor."""
    services: tuple[ServiceStatus, ...]
    birth: str | None = None
    reported: float | None = None
    """When the supervisor last wrote its status, in seconds since 1970."""

    @property
    def silence(self) -> float:
        """Seconds since the supervisor should have reported; 0 while it does."""
        late = time.time() - (self.reported or time.time()) - REPORT_SECONDS
        return late + REPORT_SECONDS if self.running and late > REPORT_SECONDS else 0.0

    def service(self, name: str) -> ServiceStatus:
        """The status of a service; `stopped` if the stack has never had it."""
        return next((service for service in self.services if service.name == name), ServiceStatus(name, "stopped"))

    def value(self) -> dict[str, Any]:
        """For `--json`; `parts` is the name that `services` had until 0.1."""
        value = asdict(self)
        return value | {"parts": value["services"]}


def write_status(home: Home, status: StackStatus) -> None:
    """Publish the status of a running stack."""
    value = asdict(status)
    del value["home"], value["running"]
    value |= {"folder": _folder(home), "reported": time.time()}
    write_json(home.file("supervisor.json"), value)


def read_status(home: Home) -> StackStatus:
    """The status of the stack in a home; all services are `stopped` when no supervisor runs there."""
    record = _read(home)
    try:
        services = tuple(ServiceStatus(**service) for service in record.get("services", ()))
        pid, birth, reported = record.get("pid"), record.get("birth"), record.get("reported")
    except TypeError:  # of another version
        services, pid, birth, reported = (), None, None, None
    running = is_locked(home)
    if running and pid and process_birth(pid) == birth:
        return StackStatus(home.path, True, pid, services, birth, reported)
    # A supervisor that has just started has not written its status yet: this one is the last supervisor's.
    return StackStatus(home.path, running, None, tuple(_stopped(service) for service in services))


def read_leftovers(home: Home) -> list[tuple[int, str]]:
    """Pid and birth of each process in the last supervisor's status: after a crash some may still run."""
    record = _read(home)
    # A copy of a home has the processes of the original in its status; until 0.1 the folder was not noted.
    if record.get("folder", _folder(home)) != _folder(home):
        return []
    services = record.get("services", ())
    return [(service["pid"], service["birth"]) for service in services if service.get("pid") and service.get("birth")]


def _folder(home: Home) -> list[int]:
    """What the home folder is on this machine: the same after it was renamed, another for a copy."""
    facts = home.path.stat()
    return [facts.st_dev, facts.st_ino]


def _read(home: Home) -> dict[str, Any]:
    """The stored status; empty when there is none. Until 0.1 its services were named `parts`."""
    record: Any = read_json(home.file("supervisor.json"))
    if not isinstance(record, dict):
        return {}
    return {"services": record.get("parts", ())} | record


def _stopped(service: ServiceStatus) -> ServiceStatus:
    if service.state == "external":
        return service
    return replace(service, state="stopped", pid=None, birth=None, silent_since=None)
