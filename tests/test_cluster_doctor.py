"""What `lungline doctor --cluster` finds, against an API server made small."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli import main
from lungline.deployment.cluster_doctor import KINDS, READY, SECRETS, SWITCHES, examine
from tests.support.kubernetes_api import Cluster, api_of, write_kubeconfig
from tests.support.manifests_of import generated_secrets, objects


@contextmanager
def api_server(answers: dict[str, Any]) -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            status = answer if isinstance(answer, int) else 200 if answer is not None else 404
            body = json.dumps(answer if isinstance(answer, dict) else {"message": "not there"}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Cluster(address=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def healthy() -> dict[str, Any]:
    answers: dict[str, Any] = {"/version": {"major": "1", "minor": "34"}}
    for _, group, plural in KINDS:
        answers.setdefault(f"/apis/{group}", {"resources": []})["resources"].append({"name": plural})
    answers["/api/v1/namespaces/kubeflow/services/ml-pipeline"] = {"metadata": {}}
    for config, key, (value, *_), _ in SWITCHES:
        answers[f"/api/v1/namespaces/knative-serving/configmaps/{config}"] = {"data": {key: value}}
    answers |= {f"/api/v1/namespaces/{namespace}/secrets/{secret}": {} for namespace, secret in SECRETS}
    conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "Available")]
    ready = {"metadata": {"name": "x"}, "status": {"conditions": conditions}}
    return answers | {f"/apis/{group}/namespaces/lungline/{plural}/{name}": ready for group, plural, name in READY}


def test_a_cluster_that_has_everything_is_well() -> None:
    with api_server(healthy()) as there:
        checks = list(examine(api_of(there)))
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 2 + len(KINDS) + len(SWITCHES) + len(SECRETS) + len(READY)


def test_what_is_missing_is_named_with_its_cure() -> None:
    answers = healthy()
    answers["/version"] = {"major": "1", "minor": "29+"}
    del answers["/apis/serving.kserve.io/v1beta1"]
    del answers["/api/v1/namespaces/lungline/secrets/postgres"]
    answers["/api/v1/namespaces/lungline/secrets/worklist"] = 403
    with api_server(answers) as there:
        ill = {check.name: check.cure for check in examine(api_of(there)) if not check.passed}
    assert ill["KServe (inferenceservices.serving.kserve.io)"] == "Install KServe: docs/cluster.md."
    assert "generate_secrets.py" in ill["Secret lungline/postgres"]
    assert ill["Secret lungline/worklist"].startswith("The Kubernetes API refuses")
    assert "1.32 or newer" in ill["Kubernetes"]
    assert len(ill) == 4, "objects are not asked for while their kinds are missing"


def test_what_is_not_ready_says_why() -> None:
    answers = healthy()
    path = "/apis/eventing.knative.dev/v1/namespaces/lungline/triggers/judge"
    condition = {"type": "Ready", "status": "False", "reason": "SubscriberNotFound", "message": "no such service"}
    answers[path] = {"metadata": {"name": "judge"}, "status": {"conditions": [condition]}}
    del answers["/apis/kafka.strimzi.io/v1/namespaces/lungline/kafkas/xray"]
    with api_server(answers) as there:
        ill = {check.name: (check.finding, check.cure) for check in examine(api_of(there)) if not check.passed}
    assert ill == {
        "triggers/judge": ("SubscriberNotFound no such service", "kubectl -n lungline describe triggers/judge"),
        "kafkas/xray": ("missing", "kubectl apply --server-side -k manifests/overlays/minikube"),
    }


def test_the_command_exits_with_1_for_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command shows them and ends with 1 when something is missing."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    answers = healthy()
    monkeypatch.setattr("sys.argv", ["lungline", "doctor", "--cluster", "--context", "here", "--json"])
    for expected in (0, 1):
        with api_server(answers) as there:
            write_kubeconfig(tmp_path / "config", there.address, monkeypatch)
            with pytest.raises(SystemExit) as ended:
                main.main()
        assert ended.value.code == expected
        checks = json.loads(capsys.readouterr().out)
        assert [check["passed"] for check in checks].count(False) == expected
        answers.pop("/api/v1/namespaces/kubeflow/services/ml-pipeline", None)


def test_it_looks_for_what_the_manifests_have() -> None:
    made = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in generated_secrets()}
    assert set(SECRETS) == made - {("lungline", "seaweedfs-identities")}, "the component has that one alone"
    here = {(item["apiVersion"], item["metadata"]["name"]) for item in objects("minikube")}
    assert {(group, name) for group, _, name in READY} <= here
    kinds = {item["apiVersion"] for item in objects("production") if "." in item["apiVersion"].partition("/")[0]}
    custom = {kind for kind in kinds if not kind.split("/")[0].endswith("k8s.io")}
    assert custom <= {group for _, group, _ in KINDS} | {"serving.kserve.io/v1alpha1"}
