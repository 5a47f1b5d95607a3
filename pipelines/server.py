"""The Kubeflow Pipelines server: who it is, and kfp's client for it with errors and output that are ours."""

import contextlib
import io
import re
import ssl
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lungline.errors import LunglineError, SettingsError, Unavailable
from pipelines.resources import SERVICE_ACCOUNT

ANSWER_SECONDS = 10.0


class PipelinesUnavailable(Unavailable):
    """The Kubeflow Pipelines server does not respond, or responds with a server error."""


@dataclass(frozen=True, slots=True)
class KfpServer:
    """A Kubeflow Pipelines server; `namespace` and `token` are for installations of several users."""

    host: str
    namespace: str | None = None
    token: SecretStr | None = None
    service_account: str = SERVICE_ACCOUNT
    ca_file: Path | None = None


@contextmanager
def connected(server: KfpServer) -> Generator[Any]:
    """A client of the server that raises our exceptions, such as PipelinesUnavailable."""
    if not re.match(r"https?://", server.host):
        raise SettingsError(f"The address of Kubeflow Pipelines begins with http:// or https://; found {server.host}.")
    _check_health(server)
    with _translated(server):
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from kfp.client import Client

            client = Client(
                host=server.host,
                existing_token=server.token.get_secret_value() if server.token else None,
                ssl_ca_cert=str(server.ca_file) if server.ca_file else None,
            )
        yield client


def quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keep the client from printing links; standard output is ours."""
    return contextlib.redirect_stdout(io.StringIO())


def _check_health(server: KfpServer) -> None:
    """Raise at once if the server does not respond: kfp's client would retry for half a minute."""
    headers = {"authorization": f"Bearer {server.token.get_secret_value()}"} if server.token else {}
    request = urllib.request.Request(  # noqa: S310 - http or https was checked
        f"{server.host.rstrip('/')}/apis/v2beta1/healthz", headers=headers
    )
    context = ssl.create_default_context(cafile=server.ca_file) if server.host.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS, context=context):  # noqa: S310 - as above
            return
    except urllib.error.HTTPError as exc:
        exc.close()
        raise _refusal(server, exc.code, str(exc.reason)) from exc
    except OSError as exc:
        raise PipelinesUnavailable(
            f"Kubeflow Pipelines at {server.host} does not answer. From outside the cluster: "
            f"`kubectl -n kubeflow port-forward service/ml-pipeline 8888:8888`."
        ) from exc


@contextmanager
def _translated(server: KfpServer) -> Generator[None]:
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as exc:
        raise _refusal(server, exc.status or 0, _message(exc)) from exc
    except HTTPError as exc:
        raise PipelinesUnavailable(f"Kubeflow Pipelines at {server.host} stopped answering.") from exc


def _message(exc: Any) -> str:
    match = re.search(r'"(?:error_message|message|error)":\s*"((?:[^"\\]|\\.)*)"', str(exc.body or ""))
    return match.group(1) if match else str(exc.reason)


def _refusal(server: KfpServer, status: int, message: str) -> LunglineError:
    if status in {0, 429} or status >= 500:
        return PipelinesUnavailable(f"Kubeflow Pipelines at {server.host} cannot answer now: {message}.")
    if status in {401, 403}:
        where = f" in namespace {server.namespace}" if server.namespace else ""
        return LunglineError(f"Kubeflow Pipelines at {server.host} refuses{where}: check the token and the namespace.")
    return LunglineError(f"Kubeflow Pipelines at {server.host} refuses: {message.rstrip('.')}.")


def pages(page: Callable[[str], Any], name: str) -> Iterator[Any]:
    """All entries of a paginated list; `page` fetches the page of a token."""
    token: str | None = ""
    while token is not None:
        response = page(token)
        yield from getattr(response, name) or ()
        token = response.next_page_token or None
