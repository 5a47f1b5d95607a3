"""A client of the MLflow server: its address and login, how long it is waited for, and its errors as ours."""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false
import http.client
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lungline.errors import RegistryError, RegistryUnavailable
from lungline.network import open_url
from lungline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 10
"""How long a person waits for a server that should be there."""


def environment(settings: Settings) -> dict[str, str]:
    """The variables from which every client of MLflow takes the server's address and login."""
    values = {"MLFLOW_TRACKING_URI": settings.mlflow_uri, "MLFLOW_TRACKING_USERNAME": settings.mlflow_username}
    password = settings.mlflow_password
    values["MLFLOW_TRACKING_PASSWORD"] = password.get_secret_value() if password else None
    return {name: value for name, value in values.items() if value}


def connect(
    settings: Settings, wait: float | None = None, give_up: Callable[[], bool] = lambda: False
) -> "MlflowClient":
    """A client of a server that answers.

    Raises RegistryUnavailable when it has not answered after `wait` seconds, or once `give_up` says so.
    """
    if settings.mlflow_uri is None:
        raise RegistryUnavailable(
            "No MLflow server is set: start the laptop stack with `lungline up`, or set LUNGLINE_MLFLOW_URI."
        )
    _await_answer(settings.mlflow_uri, ANSWER_SECONDS if wait is None else wait, give_up)
    # Its clients read the login from nowhere else.
    os.environ |= {name: value for name, value in environment(settings).items() if name != "MLFLOW_TRACKING_URI"}
    from mlflow import MlflowClient
    from mlflow.environment_variables import (
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
    )

    # MLflow's own seven retries would hold a step for minutes when the server goes away; here the caller decides.
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(2)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(30)
    # Standard output belongs to the command: with --json it is one value.
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    return MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)


@contextmanager
def translated(settings: Settings) -> Generator[None]:
    """Errors of MLflow become ours."""
    # MLflow reports its use to its makers as soon as it is imported; nothing here reports to anybody.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RequestException as exc:
        raise RegistryUnavailable(f"The MLflow server at {settings.mlflow_uri} does not answer.") from exc
    except MlflowException as exc:
        # A lost connection also arrives as an MlflowException, with status 500.
        if exc.get_http_status_code() >= 500:
            raise RegistryUnavailable(f"The MLflow server at {settings.mlflow_uri} cannot answer now.") from exc
        raise RegistryError(f"MLflow refused: {str(exc).splitlines()[0]}") from exc


def _await_answer(uri: str, wait: float, give_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            with open_url(f"{uri}/health", timeout=5):
                return
        except (OSError, http.client.HTTPException, ValueError):
            pass
        if time.monotonic() > deadline or give_up():
            raise RegistryUnavailable(f"The MLflow server at {uri} does not answer.")
        time.sleep(0.3)
