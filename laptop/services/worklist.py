"""The worklist as a service of the stack."""

import sys
from dataclasses import dataclass

from pydantic import SecretStr

from eventing.sink import greeting
from laptop.home.credentials import Credentials
from laptop.home.ports import Ports
from laptop.services.service import Command, base_environment, settings_environment
from lungline.home import Home
from lungline.network import HOST
from lungline.service_state import State
from lungline.settings import Settings


@dataclass(frozen=True)
class WorklistService:
    """The worklist; `settings` contain the address of the object store."""

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials

    name = "worklist"
    # Results wait for it in Kafka, so the services that make them start first.
    after = ("trigger",)
    stop_timeout = 5.0
    notice_seconds = 0.0

    @property
    def address(self) -> str:
        """Its address for people: browsers take every name under localhost for this machine."""
        return f"http://{self.credentials.worklist_host}:{self.ports.worklist}"

    @property
    def events(self) -> str:
        """Where the trigger sends events: other programs do not know such a name."""
        return f"http://{HOST}:{self.ports.worklist}"

    def guarded(self, settings: Settings) -> Settings:
        """Settings with the key of events: no other process on this machine may send results."""
        return settings.model_copy(update={"event_key": settings.event_key or SecretStr(self.credentials.events)})

    def connected(self, settings: Settings) -> Settings:
        """Settings with the address for people, unless they contain one."""
        return _with(settings, "uri", self.address)

    @property
    def dicomweb(self) -> str:
        """The address that viewers are given, which is not that of pages: they know no names under localhost."""
        return f"{self.events}/dicom-web"

    @property
    def viewer_token(self) -> str:
        """The bearer token of viewers."""
        given = self.settings.worklist.viewer_token
        return given.get_secret_value() if given else self.credentials.viewer

    @property
    def listens(self) -> tuple[int, ...]:
        """The page and the metrics."""
        return (self.ports.worklist, self.ports.worklist_metrics)

    def command(self) -> Command:
        """How to start it."""
        # Predictions have priority over pages: under many uploads, pages may be slow.
        argv = ("nice", "-n", "5", sys.executable, "-P", "-m", "worklist")
        argv += ("--host", HOST, "--http_port", str(self.ports.worklist))
        argv += ("--metrics_port", str(self.ports.worklist_metrics))
        ours = _with(self.connected(self.guarded(self.settings)), "viewer_token", SecretStr(self.viewer_token))
        env = base_environment() | settings_environment(ours)
        return Command(argv, env, self.home.file("worklist"))

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready while its database answers; not when another program answers at its port."""
        answer = greeting(self.events, "worklist", self.guarded(self.settings).event_key)
        if not answer.believed:
            return "not ready: another program answers"
        return "starting" if answer.status is None else "ready" if answer.delivered else "waiting"

    def maintain(self) -> None:
        """Nothing to do."""


def _with(settings: Settings, name: str, value: object) -> Settings:
    if getattr(settings.worklist, name):
        return settings
    return settings.model_copy(update={"worklist": settings.worklist.model_copy(update={name: value})})
