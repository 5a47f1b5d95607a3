"""A Kubernetes API server made small: it keeps objects, applies like the real one, and plays KServe and Knative."""

import importlib.util
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from lungline.deployment.kubernetes_api import KubernetesApi

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("LUNGLINE_SHARED", ROOT.parent / "shared")) / "k8s"
Object = dict[str, Any]
Path_ = tuple[str, ...]


@dataclass
class Cluster:
    """`plays` is what happens to the next model: it becomes ready (after `slow` requests), fails to load, or hangs."""

    plays: Literal["ready", "failing", "stuck", "crashing"] = "ready"
    slow: int = 0
    refuses: int = 0
    """A status that the next calls are answered with, while `refusals` lasts."""
    refusals: int = 0
    services: dict[str, Object] = field(default_factory=dict)
    revisions: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    owned: dict[str, set[Path_]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""
    _polls: int = 0
    _rolled_out: str = ""

    def apply(self, name: str, body: Object, manager: str) -> Object:
        """Server-side apply of maps; a list is a single value, as in KServe's CRD."""
        service = self.services.setdefault(name, {"metadata": {"generation": 0}})
        before = json.dumps(service.get("spec"))
        named = set(_leaves(body))
        gone = self.owned.get(manager, set()) - named
        self.owned[manager] = named
        for path in gone - set().union(*(fields for owner, fields in self.owned.items() if owner != manager)):
            _remove(service, path)
        _merge(service, body)
        if json.dumps(service["spec"]) != before:
            service["metadata"]["generation"] += 1
            self._polls = 0
        _check(service)
        self._make_revision(service)
        return service

    def get(self, name: str) -> Object | None:
        """The object, a step further than at the last request."""
        service = self.services.get(name)
        if service:
            self._polls += 1
            if self._polls > 1 + self.slow:
                self._reconcile(service)
        return service

    def _make_revision(self, service: Object) -> None:
        uri = service["spec"]["predictor"].get("model", {}).get("storageUri")
        if self.revisions and self.revisions[-1]["uri"] == uri:
            return
        number = len(self.revisions) + 1
        annotations = dict(service["metadata"].get("annotations", {}))
        metadata = {"name": f"{service['metadata']['name']}-predictor-{number:05}", "annotations": annotations}
        metadata["creationTimestamp"] = f"2026-11-21T00:00:{number:02}Z"
        self.revisions.append({"uri": uri, "plays": self.plays, "metadata": metadata})

    def _reconcile(self, service: Object) -> None:
        newest = self.revisions[-1]
        name, predictor = newest["metadata"]["name"], service["spec"]["predictor"]
        ready = newest["plays"] == "ready" and newest["uri"] is not None
        percent = predictor.get("canaryTrafficPercent", 100) if self._rolled_out else 100
        traffic = [{"revisionName": name, "percent": percent if ready else 0, "latestRevision": True}]
        if self._rolled_out and self._rolled_out != name:
            traffic.append({"revisionName": self._rolled_out, "percent": 100 - traffic[0]["percent"], "tag": "prev"})
        if ready and percent == 100:
            self._rolled_out = name
        conditions = [{"type": "PredictorReady", "status": "True" if ready else "Unknown"}]
        status: Object = {
            "observedGeneration": service["metadata"]["generation"],
            "components": {"predictor": {"traffic": traffic, "latestCreatedRevision": name}},
            "modelStatus": {"transitionStatus": "UpToDate" if ready else "InProgress"},
        }
        if newest["plays"] == "failing":
            status["modelStatus"] = {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "No objects found in s3://lungline-models"},
            }
        if newest["plays"] == "crashing":
            failure = {"reason": "RevisionFailed", "message": "Container failed with: out of memory"}
            conditions[0] |= {"status": "False"} | failure
        status["conditions"] = [*conditions, {"type": "Ready", "status": conditions[0]["status"]}]
        service["status"] = status
        _check(service)


@contextmanager
def running_cluster(**plays: Any) -> Iterator[Cluster]:
    """The server on a free port."""
    cluster = Cluster(**plays)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        def do_PATCH(self) -> None:
            self._serve()

        def _serve(self) -> None:
            with lock:
                try:
                    status, document = _respond(cluster, self)
                except ValueError as exc:
                    status, document = 422, {"kind": "Status", "message": str(exc), "code": 422}
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing: tests print enough."""

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cluster.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
        return cluster.refuses, {
            "kind": "Status",
            "message": "the stand-in is set to refuse",
            "code": cluster.refuses,
        }
    *_, kind, name = url.path.split("/") if "inferenceservices" in url.path else (url.path.rpartition("/")[2], "")
    if kind == "revisions":
        return 200, {"items": [{"metadata": revision["metadata"]} for revision in cluster.revisions]}
    if kind == "pods":
        return 200, {"items": cluster.pods}
    if request.command == "PATCH":
        assert request.headers["content-type"] == "application/apply-patch+yaml"
        query = parse_qs(url.query)
        assert query["force"] == ["true"]
        return 200, cluster.apply(name, json.loads(body), query["fieldManager"][0])
    service = cluster.get(name)
    return (200, service) if service else (404, {"kind": "Status", "message": f'"{name}" not found', "code": 404})


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
def _validator() -> Any:
    spec = importlib.util.spec_from_file_location("validate", SHARED / "validate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:  # one schema of many: reading all takes ten seconds
        name = "serving.kserve.io_InferenceService.yaml"
        (Path(folder) / name).symlink_to(SHARED / "crds" / name)
        crds = module.load_crds(Path(folder))
    return lambda manifest: module.check(manifest, crds, "1.34")


def _check(service: Object) -> None:
    """Validate the object with KServe's own schema, where that is available. Raises ValueError."""
    if (SHARED / "validate.py").exists():
        metadata = {key: value for key, value in service["metadata"].items() if key != "generation"}
        if errors := _errors(json.dumps({**service, "metadata": metadata})):
            raise ValueError("; ".join(errors))


@cache
def _errors(text: str) -> list[str]:
    errors, _ = _validator()(json.loads(text))
    return [error for error in errors if error != "status: must not be set in a manifest"]
