"""The event bridge as a service of the stack."""

import sys
from dataclasses import dataclass

from laptop.home.ports import Ports
from laptop.services.service import Command, base_environment, settings_environment
from lungline.home import Home
from lungline.service_state import STALE_SECONDS, State, state_of
from lungline.settings import Settings


@dataclass(frozen=True)
class BridgeService:
    """The bridge as a service of the stack; `settings` contain the addresses of store and broker."""

    home: Home
    settings: Settings
    ports: Ports

    name = "bridge"
    address = None
    after = ()  # it waits for store and broker itself
    stop_timeout = 5.0
    notice_seconds = STALE_SECONDS

    @property
    def listens(self) -> tuple[int, ...]:
        """The metrics."""
        return (self.ports.bridge_metrics,)

    def command(self) -> Command:
        """How to start it."""
        argv = (sys.executable, "-P", "-m", "eventing.bridge")
        argv += ("--filer_grpc_port", str(self.ports.filer_grpc), "--metrics_port", str(self.ports.bridge_metrics))
        return Command(argv, base_environment() | settings_environment(self.settings), self.home.path)

    def probe(self, pid: int) -> State:
        """The state in its state file."""
        return state_of(self.home, self.name, pid)

    def maintain(self) -> None:
        """Nothing to do."""
