"""The MLflow server: runs and models in SQLite, artifacts on the object store.

It runs in one process, behind the gate of `lungline.registry.mlflow_server`. `mlflow server` would import MLflow twice,
in a wrapper and in its worker, which doubles memory and the time to start. Its S3 keys open its own bucket only.
"""

import hmac
import http.client
import json
import secrets
import sys
from dataclasses import dataclass, field

from pydantic import SecretStr

from laptop.home.credentials import MLFLOW_USER, Credentials
from laptop.home.ports import Ports
from laptop.services.service import Command, base_environment, s3_environment
from lungline.home import Home
from lungline.network import HOST
from lungline.registry.mlflow_server import ACCOUNTS, ARTIFACTS, CHALLENGE, DATABASE, PROOF, proof
from lungline.service_state import State
from lungline.settings import Settings

# A server under load may take a while; one that takes longer has given no sign.
ANSWER_SECONDS = 4.0


@dataclass(frozen=True)
class Mlflow:
    """The MLflow server; `settings` contain the address of the object store."""

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials = field(repr=False)

    name = "mlflow"
    # Uploads do not need it and it takes a whole core while it starts, so the others go first.
    after = ("store", "broker", "bridge", "trigger", "predictor")
    stop_timeout = 4.0
    notice_seconds = 0.0

    @property
    def address(self) -> str:
        """The address of its page, which is also the tracking URI."""
        return f"http://{HOST}:{self.ports.mlflow}"

    def connected(self) -> Settings:
        """The settings with this server's address and login."""
        login = {"mlflow_username": MLFLOW_USER, "mlflow_password": SecretStr(self.credentials.mlflow_password)}
        return self.settings.model_copy(update={"mlflow_uri": self.address, **login})

    @property
    def listens(self) -> tuple[int, ...]:
        """Its only port."""
        return (self.ports.mlflow,)

    def command(self) -> Command:
        """How to start it."""
        argv = (sys.executable, "-P", "-m", "lungline.registry.mlflow_server", "--host", HOST)
        argv += ("--port", str(self.ports.mlflow))
        env = base_environment() | s3_environment(self._narrowed())
        env |= {
            ACCOUNTS: json.dumps({MLFLOW_USER: self.credentials.mlflow_password}),
            DATABASE: f"sqlite:///{self.home.file('mlflow', 'mlflow.db')}",
            ARTIFACTS: f"s3://{self.settings.mlflow_bucket}/",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Workers for evaluations with language models, one process each.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self.settings.s3_endpoint:
            env["MLFLOW_S3_ENDPOINT_URL"] = self.settings.s3_endpoint
        return Command(argv, env, self.home.file("mlflow"))

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready once it answers, and proves that it is ours: another program may have taken its port."""
        challenge = secrets.token_hex(16)
        shown = _header(self.ports.mlflow, "/health", (CHALLENGE, challenge), PROOF)
        is_ours = hmac.compare_digest(shown or "", proof(self.credentials.mlflow_password, challenge))
        return "ready" if is_ours else "starting"

    def _narrowed(self) -> Settings:
        """The settings with keys for its own bucket, where the object store is the stack's own."""
        given = self.settings.s3_access_key
        if given is None or given.get_secret_value() != self.credentials.owner.access_key:
            return self.settings
        key = self.credentials.mlflow
        keys = {"s3_access_key": SecretStr(key.access_key), "s3_secret_key": SecretStr(key.secret_key)}
        return self.settings.model_copy(update=keys)

    def maintain(self) -> None:
        """Nothing to do."""


def _header(port: int, path: str, sent: tuple[str, str], wanted: str) -> str | None:
    """A header of the answer to a request with a header; None when nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers=dict([sent]))
        return connection.getresponse().getheader(wanted)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers_with(port: int, path: str) -> int | None:
    """The HTTP status of a path on a local port; None when nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
