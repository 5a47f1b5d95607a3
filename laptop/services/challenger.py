"""A challenger as two services: the predictor of another version, and the trigger that brings it uploads.

Both have the lowest priority, and soon take only what others leave (`lungline.program`): live uploads come first.
"""

import sys
from dataclasses import dataclass, field

from pydantic import SecretStr

from eventing.sink import greeting
from laptop.home.challengers import Challenger, folder_of, predictor_name
from laptop.services.service import Command, Service, base_environment, priority_of, settings_environment
from laptop.services.trigger import TriggerService
from lungline.home import Home
from lungline.network import HOST
from lungline.service_state import State
from lungline.settings import Settings

# Its trigger brings one upload at a time; more threads would only wait.
THREADS = 1


@dataclass(frozen=True)
class ChallengerPredictor:
    """The predictor of a challenger; `settings` contain its purpose and the address of the object store."""

    home: Home
    settings: Settings
    challenger: Challenger
    port: int
    event_key: SecretStr | None = field(default=None, repr=False)

    after = ()
    stop_timeout = 5.0
    notice_seconds = 0.0

    @property
    def name(self) -> str:
        """By its purpose."""
        return predictor_name(self.challenger.purpose)

    @property
    def address(self) -> str:
        """Its base address."""
        return f"http://{HOST}:{self.port}"

    @property
    def listens(self) -> tuple[int, ...]:
        """Its only port."""
        return (self.port,)

    def command(self) -> Command:
        """How to start it."""
        folder = folder_of(self.home, self.challenger.purpose)
        argv = (*priority_of(self.settings), sys.executable, "-P", "-m", "serving", "--model_dir", str(folder.champion))
        argv += ("--http_host", HOST, "--http_port", str(self.port), "--threads", str(THREADS))
        if self.challenger.purpose == "shadow":  # old uploads are chosen by the task of their answers
            argv += ("--beside", str(self.home.path))
        settings = self.settings.model_copy(update={"event_key": self.event_key})
        return Command(argv, base_environment() | settings_environment(settings), folder.path)

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready once it has predicted a test image; not when another program answers at its port."""
        answer = greeting(self.address, "predictor", self.event_key)
        if not answer.believed:
            return "not ready: another program answers"
        if answer.delivered:
            return "ready"
        return "starting" if answer.status is None else "not ready"

    def maintain(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the services of a challenger get: settings with all addresses and the key of events, and the worklist."""

    home: Home
    settings: Settings
    worklist: str | None

    def services(self, challenger: Challenger, port: int) -> tuple[Service, ...]:
        """The predictor of a challenger, at a port, and its trigger."""
        ours = self.settings.model_copy(update={"purpose": challenger.purpose, "model_name": challenger.model})
        predictor = ChallengerPredictor(self.home, ours, challenger, port, self.settings.event_key)
        pointed = ours.model_copy(update={"predictor_uri": predictor.address})
        return predictor, TriggerService(self.home, pointed, self.worklist)
