"""The KServe predictor, which serves the package that the home's champion link points to."""

import sys
from dataclasses import dataclass, field

from pydantic import SecretStr

from eventing.sink import greeting
from laptop.home.ports import Ports
from laptop.services.service import Command, base_environment, settings_environment
from lungline.home import Home
from lungline.network import HOST
from lungline.service_state import State
from lungline.settings import Settings


@dataclass(frozen=True)
class Predictor:
    """The predictor; `settings` contain the address of the object store."""

    home: Home
    settings: Settings
    ports: Ports
    event_key: SecretStr | None = field(default=None, repr=False)
    """With which it and the trigger prove themselves to each other; without one it takes events from anybody."""

    name = "predictor"
    after = ()  # it waits for the store and for a champion itself
    stop_timeout = 5.0  # the server gives requests 4 s
    notice_seconds = 0.0

    @property
    def address(self) -> str:
        """Its base address; `/docs` there is its API page."""
        return f"http://{HOST}:{self.ports.predictor}"

    def connected(self) -> Settings:
        """The settings with this predictor's address."""
        return self.settings.model_copy(update={"predictor_uri": self.address})

    @property
    def listens(self) -> tuple[int, ...]:
        """Its only port."""
        return (self.ports.predictor,)

    def command(self) -> Command:
        """How to start it; without a package it reports that it is not ready."""
        argv = (sys.executable, "-P", "-m", "serving", "--model_dir", str(self.home.champion))
        argv += ("--more_models", str(self.home.models))
        argv += ("--http_host", HOST, "--http_port", str(self.ports.predictor))
        settings = self.settings.model_copy(update={"event_key": self.event_key or self.settings.event_key})
        return Command(argv, base_environment() | settings_environment(settings), self.home.file("predictor"))

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready once it has predicted a test image; not when another program answers at its port."""
        answer = greeting(self.address, "predictor", self.event_key or self.settings.event_key)
        if not answer.believed:
            return "not ready: another program answers"
        if answer.delivered:
            return "ready"
        if answer.status is None:
            return "starting"
        return "not ready" if self.home.champion.exists() else "waiting for a champion"

    def maintain(self) -> None:
        """Nothing to do."""
