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
    """`plays` says what becomes of the next model: it comes up (after `slow` looks), fails to load, or hangs."""

    plays: Literal["ready", "failing", "stuck", "crashing"] = "ready"
    slow: int = 0
    refuses: int = 0
    """A status that the next calls are answered with, while `refusals` lasts."""
    refusals: int = 0
    services: dict[str, Object] = field(default_factory=dict)
    revisions: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    owned: dict[str, set[Path_]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""
    _looks: int = 0
    _rolled_out: str = ""

    def apply(self, name: str, body: Object, manager: str) -> Object:
        """Server-side apply, as far as maps go: lists are one value here, as in KServe's CRD."""
        found = self.services.setdefault(name, {"metadata": {"generation": 0}})
        before = json.dumps(found.get("spec"))
        named = set(_leaves(body))
        gone = self.owned.get(manager, set()) - named
        self.owned[manager] = named
        for path in gone - set().union(*(fields for one, fields in self.owned.items() if one != manager)):
            _remove(found, path)
        _merge(found, body)
        if json.dumps(found["spec"]) != before:
            found["metadata"]["generation"] += 1
            self._looks = 0
        _check(found)
        self._make_revision(found)
        return found

    def get(self, name: str) -> Object | None:
        """The object, a little further on than at the last look."""
        found = self.services.get(name)
        if found:
            self._looks += 1
            if self._looks > 1 + self.slow:
                self._reconcile(found)
        return found

    def _make_revision(self, found: Object) -> None:
        uri = found["spec"]["predictor"].get("model", {}).get("storageUri")
        if self.revisions and self.revisions[-1]["uri"] == uri:
            return
        number = len(self.revisions) + 1
        notes = dict(found["metadata"].get("annotations", {}))
        metadata = {"name": f"{found['metadata']['name']}-predictor-{number:05}", "annotations": notes}
        metadata["creationTimestamp"] = f"2026-11-21T00:00:{number:02}Z"
        self.revisions.append({"uri": uri, "plays": self.plays, "metadata": metadata})

    def _reconcile(self, found: Object) -> None:
        newest = self.revisions[-1]
        name, predictor = newest["metadata"]["name"], found["spec"]["predictor"]
        ready = newest["plays"] == "ready" and newest["uri"] is not None
        percent = predictor.get("canaryTrafficPercent", 100) if self._rolled_out else 100
        traffic = [{"revisionName": name, "percent": percent if ready else 0, "latestRevision": True}]
        if self._rolled_out and self._rolled_out != name:
            traffic.append({"revisionName": self._rolled_out, "percent": 100 - traffic[0]["percent"], "tag": "prev"})
        if ready and percent == 100:
            self._rolled_out = name
        conditions = [{"type": "PredictorReady", "status": "True" if ready else "Unknown"}]
        status: Object = {
            "observedGeneration": found["metadata"]["generation"],
            "components": {"predictor": {"traffic": traffic, "latestCreatedRevision": name}},
            "modelStatus": {"transitionStatus": "UpToDate" if ready else "InProgress"},
        }
        if newest["plays"] == "failing":
            status["modelStatus"] = {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "No objects found in s3://lungline-models"},
            }
        if newest["plays"] == "crashing":
            words = {"reason": "RevisionFailed", "message": "Container failed with: out of memory"}
            conditions[0] |= {"status": "False"} | words
        status["conditions"] = [*conditions, {"type": "Ready", "status": conditions[0]["status"]}]
        found["status"] = status
        _check(found)


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
                    status, answer = _answer(cluster, self)
                except ValueError as exc:
                    status, answer = 422, {"kind": "Status", "message": str(exc), "code": 422}
            body = json.dumps(answer).encode()
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


def _answer(cluster: Cluster, request: BaseHTTPRequestHandler) -> tuple[int, Object]:
    url = urlsplit(request.path)
    cluster.asked.append(f"{request.command} {url.path}")
    body = request.rfile.read(int(request.headers.get("content-length") or 0))
    if cluster.refusals:
        cluster.refusals -= 1
        return cluster.refuses, {
            "kind": "Status",
            "message": "the stand-in was told to refuse",
            "code": cluster.refuses,
        }
    *_, kind, name = url.path.split("/") if "inferenceservices" in url.path else (url.path.rpartition("/")[2], "")
    if kind == "revisions":
        return 200, {"items": [{"metadata": one["metadata"]} for one in cluster.revisions]}
    if kind == "pods":
        return 200, {"items": cluster.pods}
    if request.command == "PATCH":
        assert request.headers["content-type"] == "application/apply-patch+yaml"
        query = parse_qs(url.query)
        assert query["force"] == ["true"]
        return 200, cluster.apply(name, json.loads(body), query["fieldManager"][0])
    found = cluster.get(name)
    return (200, found) if found else (404, {"kind": "Status", "message": f'"{name}" not found', "code": 404})


def _leaves(value: Object, way: Path_ = ()) -> Iterator[Path_]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, (*way, key))
        else:
            yield (*way, key)


def _merge(into: Object, body: Object) -> None:
    for key, value in body.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _remove(value: Object, way: Path_) -> None:
    for key in way[:-1]:
        value = value.get(key, {})
    value.pop(way[-1], None)


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
    return lambda one: module.check(one, crds, "1.34")


def _check(found: Object) -> None:
    """Hold the object against KServe's own schema, where it is at hand. Raises ValueError."""
    if (SHARED / "validate.py").exists():
        metadata = {key: value for key, value in found["metadata"].items() if key != "generation"}
        if errors := _errors(json.dumps({**found, "metadata": metadata})):
            raise ValueError("; ".join(errors))


@cache
def _errors(text: str) -> list[str]:
    found, _ = _validator()(json.loads(text))
    return [error for error in found if error != "status: must not be set in a manifest"]
