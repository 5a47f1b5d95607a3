"""The MLflow server behind a login, on a laptop and on a cluster: `python -m lungline.registry.mlflow_server`.

MLflow serves much besides a tracking server and a registry: an assistant that runs programs, a gateway to language
models, jobs, webhooks. None of it is reached here. A request passes when it comes from an account, not from a page of
another site, and its route is on the list in `mlflow_routes`; every other route is 404, also those of later versions.

Where artifacts lie is a matter of the server: a location outside its own bucket is refused where it would be stored,
and the repositories of files and of other protocols are gone from its process.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import argparse
import base64
import binascii
import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

from lungline.connections import BACKLOG, guarded, most_connections
from lungline.listening import listen
from lungline.registry.mlflow_routes import is_served

ACCOUNTS = "MLFLOW_GATE_ACCOUNTS"
"""The variable with the accounts: a JSON object of passwords by name."""
READERS = "MLFLOW_GATE_READERS"
"""The variable with the accounts that may only read, separated by commas."""
DATABASE, ARTIFACTS = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"
CHALLENGE, PROOF = "x-lungline-challenge", "x-lungline-proof"

_ROOT = "mlflow-artifacts:/"
_SHORTEST_PASSWORD = 16
# Beside the scheme of its own artifacts; the server resolves these to them.
_SCHEMES = ("mlflow-artifacts", "models", "runs")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def proof(password: str, challenge: str) -> str:
    """What a server answers that knows the password, and nobody else can."""
    return hmac.new(password.encode(), f"mlflow {challenge}".encode(), "sha256").hexdigest()


class Gate:
    """An ASGI application in front of MLflow's; `accounts` are passwords by name, `readers` may only read."""

    def __init__(self, inner: App, accounts: Mapping[str, str], readers: Collection[str] = ()) -> None:
        self._inner = inner
        self._readers = frozenset(readers)
        self._digests = {name: _digest(password) for name, password in accounts.items()}
        self._first = next(iter(accounts.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it before anything of MLflow or of its body is read."""
        if scope["type"] == "lifespan":
            return await self._inner(scope, receive, send)
        if scope["type"] != "http":
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            return await _answer(send, 200, "OK", (PROOF, proof(self._first, headers.get(CHALLENGE, "")[:128])))
        account = self._account(headers.get("authorization", ""))
        if account is None:
            return await _answer(send, 401, "Log in.", ("www-authenticate", 'Basic realm="MLflow", charset="UTF-8"'))
        changes = account in self._readers and scope["method"] not in ("GET", "HEAD")
        refusal = (403, "This account may only read.") if changes else _refusal(scope, headers)
        if refusal:
            return await _answer(send, *refusal)
        return await self._inner(scope, receive, send)

    def _account(self, authorization: str) -> str | None:
        """The name of the account that logs in; None for nobody."""
        kind, _, value = authorization.partition(" ")
        if kind.lower() == "bearer":
            given = _digest(value.strip())
            return next((name for name, kept in self._digests.items() if hmac.compare_digest(given, kept)), None)
        if kind.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None
        matches = hmac.compare_digest(_digest(password), self._digests.get(name, b"")) and name in self._digests
        return name if matches else None


def _digest(password: str) -> bytes:
    # Of the same length for all, so that the time of a comparison tells nothing.
    return hashlib.sha256(password.encode()).digest()


def _refusal(scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
    if _is_from_elsewhere(scope["method"], headers):
        return 403, "Pages of other sites are refused."
    return None if is_served(scope["method"], scope["path"]) else (404, "Not served here.")


def _is_from_elsewhere(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin sends it: a browser adds the login to such requests by itself."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    follows_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not follows_link


async def _answer(send: Send, status: int, text: str, *more: tuple[str, str]) -> None:
    body = text.encode()
    headers = [("content-type", "text/plain"), ("content-length", str(len(body))), ("cache-control", "no-store"), *more]
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def is_own_location(location: str | None, artifacts: str) -> bool:
    """Whether a location is inside `artifacts`, the server's own prefix, or resolved to it by the server.

    >>> [is_own_location(at, "s3://ours/") for at in ("s3://ours/1", "s3://others/1", "file:///etc")]
    [True, False, False]
    """
    # An experiment has none until MLflow has given it its number, and a deleted version none any more.
    if not location:
        return True
    plain = unquote(unquote(location))
    if ".." in plain or "\\" in plain or "?" in plain or "#" in plain:
        return False
    served = plain.startswith(_ROOT) and not plain.startswith(f"{_ROOT}/")
    deleted = re.fullmatch(r"REDACTED-[A-Z-]+", plain) is not None
    model = plain.startswith("models:/") and not plain.startswith("models://")
    return served or model or deleted or plain.startswith(f"{artifacts.rstrip('/')}/")


def confine(artifacts: str) -> None:
    """Refuse locations outside `artifacts`, whatever route they come by; called once in the server's process."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import event, inspect

    columns = {
        SqlExperiment: ("artifact_location",),
        SqlRun: ("artifact_uri",),
        SqlLoggedModel: ("artifact_location",),
        SqlModelVersion: ("source", "storage_location"),
    }

    def check(_mapper: object, _connection: object, row: Any) -> None:
        for column in columns[type(row)]:
            changed = inspect(row).attrs[column].history.has_changes()
            if changed and not is_own_location(getattr(row, column), artifacts):
                raise MlflowException.invalid_parameter_value(f"{column} must lie in this server's own artifacts.")

    for table in columns:
        event.listen(table, "before_insert", check)
        event.listen(table, "before_update", check)
    repositories = get_registered_artifact_repositories()
    kept = {*_SCHEMES, urlsplit(artifacts).scheme}
    for scheme in [scheme for scheme in repositories if scheme not in kept]:
        del repositories[scheme]


def load_accounts(text: str | None) -> dict[str, str]:
    """Passwords by name. Raises ValueError: a server that would let everybody in does not start."""
    accounts = json.loads(text or "{}")
    if not accounts or not isinstance(accounts, dict):
        raise ValueError(f"{ACCOUNTS} must hold a JSON object of passwords by name.")
    for name, password in accounts.items():
        if not name or ":" in name or not isinstance(password, str) or len(password) < _SHORTEST_PASSWORD:
            raise ValueError(f"{ACCOUNTS}: account {name!r} needs a password of {_SHORTEST_PASSWORD} characters.")
    return accounts


def application() -> App:
    """MLflow's application behind the gate, with the settings of the environment."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    accounts = load_accounts(os.environ.pop(ACCOUNTS, None))
    readers = [name.strip() for name in os.environ.pop(READERS, "").split(",")]
    database, artifacts = os.environ.pop(DATABASE), os.environ.pop(ARTIFACTS)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: _ROOT,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    confine(artifacts)
    initialize_backend_stores(database, database, _ROOT)
    from mlflow.server.fastapi_app import app

    return Gate(app, accounts, readers)  # pyright: ignore[reportArgumentType] - Starlette's own types of the same interface


def main() -> None:
    """Run the server until SIGTERM."""
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    parser = argparse.ArgumentParser(prog="python -m lungline.registry.mlflow_server")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()

    # Its access log would be longer than everything else together.
    config = uvicorn.Config(
        application(),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        http=guarded(AutoHTTPProtocol, most_connections()),
        backlog=BACKLOG,
    )
    uvicorn.Server(config).run(sockets=[listen(arguments.host, arguments.port)])


if __name__ == "__main__":
    main()
