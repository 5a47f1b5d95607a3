"""The trigger as a service of the stack."""

import sys
from dataclasses import dataclass

from eventing.routes import trigger_name
from laptop.services.service import Command, base_environment, priority_of, settings_environment
from lungline.home import Home
from lungline.service_state import STALE_SECONDS, State, state_of
from lungline.settings import Settings


@dataclass(frozen=True)
class TriggerService:
    """The trigger as a service of the stack, with the addresses of broker and predictor, and of the worklist."""

    home: Home
    settings: Settings
    worklist: str | None = None
    metrics_port: int | None = None
    plain_predictor: bool = False
    """Whether the predictor is another's, which has not the key of events."""

    address = None
    after = ()  # it waits for broker, predictor and worklist itself
    stop_timeout = 5.0
    notice_seconds = STALE_SECONDS

    @property
    def name(self) -> str:
        """By the purpose of its settings."""
        return trigger_name(self.settings)

    @property
    def listens(self) -> tuple[int, ...]:
        """The metrics."""
        return (self.metrics_port,) if self.metrics_port else ()

    def command(self) -> Command:
        """How to start it."""
        env = base_environment() | settings_environment(self.settings)
        argv = [*priority_of(self.settings), sys.executable, "-P", "-m", "eventing.trigger"]
        if self.metrics_port:
            argv += ["--metrics_port", str(self.metrics_port)]
        if self.plain_predictor:
            argv += ["--plain_predictor"]
        if self.worklist:
            argv += ["--worklist", self.worklist]
        return Command(tuple(argv), env, self.home.path)

    def probe(self, pid: int) -> State:
        """The state in its state file."""
        return state_of(self.home, self.name, pid)

    def maintain(self) -> None:
        """Nothing to do."""
