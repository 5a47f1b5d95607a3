"""The DICOM gateway as a service of the stack."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from laptop.home.credentials import Credentials, claim_credentials
from laptop.home.gateway_certificates import with_certificates
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.service import Command, base_environment, settings_environment
from lungline.home import Home
from lungline.network import HOST
from lungline.service_state import STALE_SECONDS, State, state_of
from lungline.settings import Settings


@dataclass(frozen=True)
class GatewayService:
    """The gateway; `settings` contain the address of the object store, to which it has only a scanner's rights."""

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials = field(repr=False)

    @classmethod
    def of(cls, home: Path, settings: Settings) -> "GatewayService":
        """The gateway of a home, before the store that settings name."""
        made = Home.make(home)
        ours = settings.model_copy(update={"home": made.path})
        return cls(made, ours, load_ports(made) or claim_ports(made), claim_credentials(made))

    name = "gateway"
    after = ("store",)
    stop_timeout = 5.0
    notice_seconds = STALE_SECONDS

    @property
    def address(self) -> str:
        """Its AE title and port, in the usual notation, and the address of its STOW-RS service."""
        return f"{self.settings.gateway.ae_title}@{HOST}:{self.ports.gateway}, {self.dicomweb}"

    @property
    def dicomweb(self) -> str:
        """The address that STOW-RS clients are given."""
        ours = self.settings.gateway
        return f"{'https' if ours.tls_certificate or ours.make_certificates else 'http'}://{HOST}:{self.ports.gateway_web}/dicom-web"

    @property
    def token(self) -> str:
        """The bearer token of STOW-RS clients."""
        given = self.settings.gateway.token
        return given.get_secret_value() if given else self.credentials.stow

    @property
    def listens(self) -> tuple[int, ...]:
        """DICOM, STOW-RS and the metrics."""
        return (self.ports.gateway, self.ports.gateway_web, self.ports.gateway_metrics)

    def command(self) -> Command:
        """How to start it."""
        argv = (sys.executable, "-P", "-m", "gateway", "--host", HOST, "--dicom_port", str(self.ports.gateway))
        argv += ("--web_port", str(self.ports.gateway_web), "--metrics_port", str(self.ports.gateway_metrics))
        env = base_environment() | settings_environment(self._narrowed())
        return Command(argv, env, self.home.file("gateway"))

    def probe(self, pid: int) -> State:
        """The state in its state file: its socket takes connections also while no process accepts them."""
        return state_of(self.home, self.name, pid)

    def maintain(self) -> None:
        """Nothing to do."""

    def _narrowed(self) -> Settings:
        """The settings without secrets; with keys that only upload, where the object store is the stack's own."""
        ours = self.settings
        blank: dict[str, object] = {name: None for name, value in ours if isinstance(value, SecretStr)}
        given, scanner = ours.s3_access_key, self.credentials.scanner
        keys = (given, ours.s3_secret_key)
        if given and given.get_secret_value() == self.credentials.owner.access_key:
            keys = (SecretStr(scanner.access_key), SecretStr(scanner.secret_key))
        secrets = ("database", "event_token", "viewer_token", "secret", "oidc_client_secret")
        worklist = ours.worklist.model_copy(update=dict.fromkeys(secrets))
        gateway = with_certificates(self.home, ours.gateway).model_copy(update={"token": SecretStr(self.token)})
        return ours.model_copy(
            update=blank
            | {"s3_access_key": keys[0], "s3_secret_key": keys[1], "worklist": worklist, "gateway": gateway}
        )
