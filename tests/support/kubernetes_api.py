"""A Kubernetes API server made small: it keeps objects and applies like the real one; kserve_controllers.py plays."""

import importlib.util
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from lungline.deployment.kubernetes_api import KubernetesApi
from tests.support.http_stand_in import Quiet, serving
from tests.support.kserve_controllers import Controllers
from tests.support.strict_validator import SCHEMAS, VALIDATOR

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]
Path_ = tuple[str, ...]


@dataclass
class Cluster:
    """The objects of a namespace, and what plays the controllers of its InferenceService."""

    controllers: Controllers = field(default_factory=Controllers)
    refuses: int = 0
    """A status that the next calls are answered with, while `refusals` lasts; 0 cuts the connection."""
    refusals: int = 0
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verbs and resources that the account has no right to, such as ("list", "pods")."""
    services: dict[str, Object] = field(default_factory=dict)
    pods: list[Object] = field(default_factory=list)
    owned: dict[str, set[Path_]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""
    _uids: int = 0

    def apply(self, name: str, body: Object, manager: str) -> Object:
        """Server-side apply of maps; a list is a single value, as in KServe's CRD. Raises Conflict."""
        uid = body["metadata"].pop("uid", None)
        if uid is not None and uid != self.services.get(name, {}).get("metadata", {}).get("uid"):
            raise Conflict(f"uid mismatch: the provided object specified uid {uid}, and no existing object was found")
        if name not in self.services:
            self._uids += 1
            self.services[name] = {"metadata": {"generation": 0, "uid": f"uid-{self._uids}"}}
        service = self.services[name]
        before = json.dumps(service.get("spec"))
        named = set(_leaves(body))
        gone = self.owned.get(manager, set()) - named
        self.owned[manager] = named
        for path in gone - set().union(*(fields for owner, fields in self.owned.items() if owner != manager)):
            _remove(service, path)
        _merge(service, body)
        if json.dumps(service["spec"]) != before:
            service["metadata"]["generation"] += 1
        _check(service)
        return service

    def get(self, name: str) -> Object | None:
        """The object, as its controllers have left it by now."""
        service = self.services.get(name)
        if service:
            self.controllers.reconcile(service)
            _check(service)
        return service

    def delete(self, name: str) -> None:
        """What `kubectl delete` does."""
        self.services.pop(name, None)
        self.owned.clear()
        self.controllers.forget()


class Conflict(Exception):
    """The object of a change is not the one that is there."""


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The server on a free port."""
    cluster = Cluster()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_PATCH(self) -> None:
            self._serve()

        def _serve(self) -> None:
            with lock:
                try:
                    status, document = _respond(cluster, self)
                except ValueError as exc:
                    status, document = 422, _refusal(422, str(exc))
                except Conflict as exc:
                    status, document = 409, _refusal(409, str(exc))
            if not status:
                self.close_connection = True
                return
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    lock = threading.Lock()
    with serving(Handler) as cluster.address:
        yield cluster


def api_of(cluster: Cluster) -> KubernetesApi:
    """The product's own client, pointed at the stand-in."""
    configuration = client.Configuration(host=cluster.address)
    configuration.retries = False  # pyright: ignore[reportAttributeAccessIssue]
    return KubernetesApi(client.ApiClient(configuration))


def write_kubeconfig(path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig whose context `here` is the stand-in, and whose current one is not; used until the test ends."""
    context = {"cluster": "here", "user": "me"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "elsewhere",
        "clusters": [
            {"name": "here", "cluster": {"server": address}},
            {"name": "elsewhere", "cluster": {"server": "http://127.0.0.1:9"}},
        ],
        "users": [{"name": "me", "user": {}}],
        "contexts": [
            {"name": "here", "context": context},
            {"name": "elsewhere", "context": context | {"cluster": "elsewhere"}},
        ],
    }
    path.write_text(json.dumps(config))  # which is YAML too
    monkeypatch.setenv("KUBECONFIG", str(path))
    # The client reads the variable once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


def _respond(cluster: Cluster, request: BaseHTTPRequestHandler) -> tuple[int, Object]:
    url = urlsplit(request.path)
    cluster.requests.append(f"{request.command} {url.path}")
    body = request.rfile.read(int(request.headers.get("content-length") or 0))
    if cluster.refusals:
        cluster.refusals -= 1
        return cluster.refuses, _refusal(cluster.refuses, "the stand-in is set to refuse")
    *_, kind, name = url.path.split("/") if "inferenceservices" in url.path else (url.path.rpartition("/")[2], "")
    verb = "patch" if request.command == "PATCH" else "get" if name else "list"
    if (verb, kind) in cluster.forbidden:
        return 403, _refusal(403, f'{kind} is forbidden: User "me" cannot {verb} resource "{kind}" in the namespace')
    if kind == "revisions":
        for service in cluster.services.values():
            cluster.controllers.reconcile(service)
        return 200, {"items": [revision.resource() for revision in cluster.controllers.revisions]}
    if kind == "pods":
        return 200, {"items": cluster.pods}
    if request.command == "PATCH":
        assert request.headers["content-type"] == "application/apply-patch+yaml"
        query = parse_qs(url.query)
        assert query["force"] == ["true"]
        return 200, cluster.apply(name, json.loads(body), query["fieldManager"][0])
    service = cluster.get(name)
    return (200, service) if service else (404, _refusal(404, f'"{name}" not found'))


def _refusal(code: int, message: str) -> Object:
    return {"kind": "Status", "message": message, "code": code}


def _leaves(value: Object, path: Path_ = ()) -> Iterator[Path_]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, (*path, key))
        else:
            yield (*path, key)


def _merge(into: Object, body: Object) -> None:
    for key, value in body.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _remove(value: Object, path: Path_) -> None:
    for key in path[:-1]:
        value = value.get(key, {})
    value.pop(path[-1], None)


@cache
def validator_of(*schemas: str) -> Any:
    """The strict check of a manifest against these files of schemas; reading all of them takes ten seconds."""
    spec = importlib.util.spec_from_file_location("validate", VALIDATOR)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        for name in schemas:
            (Path(folder) / name).symlink_to(SCHEMAS / name)
        crds = module.load_crds(Path(folder))
    return lambda manifest: module.check(manifest, crds, "1.34")


def _check(service: Object) -> None:
    """Validate the object with KServe's own schema, where that is available. Raises ValueError."""
    if VALIDATOR.exists():
        metadata = {key: value for key, value in service["metadata"].items() if key not in {"generation", "uid"}}
        if errors := _errors(json.dumps({**service, "metadata": metadata})):
            raise ValueError("; ".join(errors))


@cache
def _errors(text: str) -> list[str]:
    errors, _ = validator_of("serving.kserve.io_InferenceService.yaml")(json.loads(text))
    return [error for error in errors if error != "status: must not be set in a manifest"]
