"""The rights of accounts under the real authorizer: the pipeline may promote, and nothing else."""

import json
import ssl
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.api import Object
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ADDRESS

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("overlay")]
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/lungline/inferenceservices"
KUBEFLOW = "/apis/serving.kserve.io/v1beta1/namespaces/kubeflow/inferenceservices"
POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "mine"},
    "spec": {"containers": [{"name": "a", "image": "dev.local/a:1"}]},
}
SERVICE: Object = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "other", "namespace": "lungline"},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "lungline"}, "runtime": "lungline-predictor"}}},
}


class Account:
    """A service account that calls the API server with its own token."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        token = cluster.plane.api.token(namespace, name)
        verify = ssl.create_default_context(cafile=str(cluster.plane.authority.pair.certificate))
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=ADDRESS, verify=verify, headers=headers, trust_env=False, timeout=30)

    def close(self) -> None:
        self._client.close()

    def status(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> int:
        content = json.dumps(body) if body else None
        return self._client.request(method, path, content=content, headers={"content-type": kind}).status_code


@pytest.fixture(scope="module")
def pipeline(cluster: Cluster, overlay: object) -> Iterator[Account]:
    del overlay
    account = Account(cluster, "kubeflow", "lungline-pipeline")
    yield account
    account.close()


APPLY = "application/apply-patch+yaml"
HEAD: Object = {key: SERVICE[key] for key in ("apiVersion", "kind")}
ALLOWED: tuple[tuple[str, str, Object | None, str], ...] = (
    ("GET", f"{SERVICES}/pneumonia", None, ""),
    ("PATCH", f"{SERVICES}/pneumonia?fieldManager=a&dryRun=All", HEAD | {"metadata": {"name": "pneumonia"}}, APPLY),
    ("GET", SERVICES, None, ""),
    ("GET", "/apis/serving.knative.dev/v1/namespaces/lungline/revisions", None, ""),
    ("GET", "/api/v1/namespaces/lungline/pods", None, ""),
)
FORBIDDEN: tuple[tuple[str, str, Object | None, str], ...] = (
    ("DELETE", f"{SERVICES}/pneumonia", None, ""),
    ("DELETE", SERVICES, None, ""),
    ("PATCH", f"{SERVICES}/other?fieldManager=a", SERVICE, APPLY),
    ("PATCH", f"{SERVICES}/pneumonia/status", {"status": {}}, "application/merge-patch+json"),
    ("GET", KUBEFLOW, None, ""),
    ("GET", "/apis/serving.kserve.io/v1beta1/inferenceservices", None, ""),
    ("GET", "/api/v1/namespaces/lungline/secrets", None, ""),
    ("GET", "/api/v1/namespaces/lungline/secrets/s3-predictor", None, ""),
    ("GET", "/api/v1/namespaces/kubeflow/secrets/s3-pipeline", None, ""),
    ("GET", "/api/v1/namespaces/lungline/configmaps/settings", None, ""),
    ("POST", "/api/v1/namespaces/lungline/pods", POD, ""),
    ("POST", "/api/v1/namespaces/kubeflow/pods", POD, ""),
    ("DELETE", "/api/v1/namespaces/lungline/pods", None, ""),
    ("GET", "/api/v1/namespaces/knative-serving/pods", None, ""),
    ("DELETE", "/apis/serving.knative.dev/v1/namespaces/lungline/revisions", None, ""),
    ("GET", "/apis/serving.kserve.io/v1alpha1/namespaces/lungline/servingruntimes", None, ""),
    ("PATCH", "/apis/apps/v1/namespaces/lungline/deployments/worklist", {}, "application/merge-patch+json"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/lungline/roles", None, ""),
    ("POST", "/api/v1/namespaces/kubeflow/serviceaccounts/lungline-pipeline/token", {"spec": {}}, ""),
    ("GET", "/api/v1/nodes", None, ""),
    ("GET", "/api/v1/namespaces", None, ""),
)


def _sentence(request: tuple[str, str, Object | None, str]) -> str:
    return f"{request[0]} {request[1].partition('?')[0]}"


@pytest.mark.parametrize("request_", ALLOWED, ids=_sentence)
def test_the_pipeline_may(pipeline: Account, request_: tuple[str, str, Object | None, str]) -> None:
    method, path, body, kind = request_
    assert pipeline.status(method, path, body, kind or "application/json") == 200


@pytest.mark.parametrize("request_", FORBIDDEN, ids=_sentence)
def test_the_pipeline_may_not(pipeline: Account, request_: tuple[str, str, Object | None, str]) -> None:
    method, path, body, kind = request_
    assert pipeline.status(method, path, body, kind or "application/json") == 403


def test_kubernetes_lists_no_other_right(cluster: Cluster) -> None:
    """What `kubectl auth can-i --list` tells of the account, beside what every account may."""
    listed = _rights(cluster, "system:serviceaccount:kubeflow:lungline-pipeline", "lungline")
    everybody = _rights(cluster, "system:serviceaccount:kubeflow:default", "lungline")
    assert sorted(listed - everybody) == [
        "inferenceservices.serving.kserve.io [] [] [list watch create]",
        "inferenceservices.serving.kserve.io [] [pneumonia] [get patch update]",
        "pods [] [] [list]",
        "revisions.serving.knative.dev [] [] [list]",
    ]


def test_pods_cannot_use_the_api(cluster: Cluster) -> None:
    """No other pod of ours holds a token: each says automountServiceAccountToken: false."""
    pods = cluster.plane.api.items("/api/v1/namespaces/lungline/pods")
    holders = {
        pod["metadata"]["name"] for pod in pods if any("serviceAccountToken" in source for source in _sources(pod))
    }
    assert pods
    assert holders == set()


def _sources(pod: Object) -> list[Object]:
    """What the projected volumes of a pod are made of."""
    volumes = pod["spec"].get("volumes", [])
    return [source for volume in volumes for source in volume.get("projected", {}).get("sources", [])]


def _rights(cluster: Cluster, account: str, namespace: str) -> set[str]:
    done: subprocess.CompletedProcess[str] = cluster.plane.kubectl(
        "auth", "can-i", "--list", f"--as={account}", "-n", namespace, "--no-headers"
    )
    return {" ".join(line.split()) for line in done.stdout.splitlines()}
