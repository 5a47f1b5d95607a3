"""The MLflow server: runs and models in SQLite, artifacts on the object store.

It runs in one process. `mlflow server` would import MLflow twice, in a wrapper and in its worker, which doubles memory
and the time to start.
"""

import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eventing.state import State
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.process import running
from laptop.services.service import Command, base_environment, s3_environment
from lungline.home import Home
from lungline.network import HOST
from lungline.settings import Settings


@dataclass(frozen=True)
class Mlflow:
    """The MLflow server; `settings` contain the address of the object store."""

    home: Home
    settings: Settings
    ports: Ports

    name = "mlflow"
    # Uploads do not need it and it takes a whole core while it starts, so the others go first.
    after = ("store", "broker", "bridge", "trigger", "predictor")
    stop_timeout = 4.0
    poll = False

    @property
    def address(self) -> str:
        """The address of its page, which is also the tracking URI."""
        return f"http://{HOST}:{self.ports.mlflow}"

    def connected(self) -> Settings:
        """The settings with this server's address."""
        return self.settings.model_copy(update={"mlflow_uri": self.address})

    def command(self) -> Command:
        """How to start it."""
        argv = (sys.executable, "-P", "-m", "laptop.services.mlflow", str(self.ports.mlflow))
        env = base_environment() | s3_environment(self.settings)
        env |= {
            "LUNGLINE_MLFLOW_DATABASE": f"sqlite:///{self.home.file('mlflow', 'mlflow.db')}",
            "LUNGLINE_MLFLOW_ARTIFACTS": f"s3://{self.settings.mlflow_bucket}/",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Workers for evaluations with language models, one process each.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self.settings.s3_endpoint:
            env["MLFLOW_S3_ENDPOINT_URL"] = self.settings.s3_endpoint
        return Command(argv, env, self.home.file("mlflow"))

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready once it answers."""
        return "ready" if answers_with(self.ports.mlflow, "/health") == 200 else "starting"

    def maintain(self) -> None:
        """Nothing to do."""


def answers_with(port: int, path: str) -> int | None:
    """The HTTP status of a path on a local port; None when nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def running_mlflow(home: Path, settings: Settings) -> Iterator[Settings]:
    """An MLflow server alone; yields the settings completed with its address."""
    made = Home.make(home)
    tracking = Mlflow(made, settings, load_ports(made) or claim_ports(made))
    with running(tracking, made.log(tracking.name), within=180):
        yield tracking.connected()


def main() -> None:
    """Run the server until SIGTERM; its one argument is the port."""
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    database, root = os.environ.pop("LUNGLINE_MLFLOW_DATABASE"), "mlflow-artifacts:/"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ.pop("LUNGLINE_MLFLOW_ARTIFACTS"),
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    initialize_backend_stores(database, database, root)
    # Its access log would be longer than everything else together.
    uvicorn.run(
        "mlflow.server.fastapi_app:app",
        host=HOST,
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
