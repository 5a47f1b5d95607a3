"""Every overlay on a real API server: schemas, CEL rules, the webhooks of Knative and KServe, and Pod Security."""

from collections.abc import Iterator

import pytest

from tests.cluster.api import Object, messages
from tests.cluster.cluster import Cluster
from tests.support.manifests_of import NAMESPACE, OVERLAYS, objects
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "GatewayClass"}
OWNERS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "Job": "jobs"}
GROUPS = {"Deployment": "apps", "StatefulSet": "apps", "Job": "batch"}


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """An overlay by its name, once `kubectl apply --server-side -k` has taken it whole; deleted at the end."""
    cluster.create_secrets()
    output = cluster.apply_overlay(request.param)
    assert "Warning" not in output, output
    yield request.param
    cluster.remove_overlay()


def test_every_object_is_taken(cluster: Cluster, applied: str) -> None:
    """Applying again changes nothing: what admission makes of an object agrees with what it says."""
    generations = _generations(cluster, applied)
    cluster.apply_overlay(applied)
    assert _generations(cluster, applied) == generations
    assert len(generations) > 40


def test_every_pod_is_admitted_and_becomes_ready(cluster: Cluster, applied: str) -> None:
    """The controllers make each pod of each template; Pod Security refuses none."""
    for manifest in objects(applied):
        if manifest["kind"] in OWNERS and manifest["metadata"]["namespace"] == NAMESPACE:
            eventually(lambda wanted=manifest: _is_complete(cluster, wanted), 120)
    events = cluster.plane.api.items(f"/api/v1/namespaces/{NAMESPACE}/events")
    assert messages(events, "FailedCreate") == []


def test_cron_jobs_make_pods_that_are_admitted(cluster: Cluster, applied: str) -> None:
    """Each schedule, run now."""
    names = [manifest["metadata"]["name"] for manifest in objects(applied) if manifest["kind"] == "CronJob"]
    assert names
    for name in names:
        cluster.plane.kubectl("-n", NAMESPACE, "create", "job", f"{name}-now", f"--from=cronjob/{name}")
        path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}-now"
        eventually(lambda path=path: (cluster.plane.api.get(path) or {})["status"].get("succeeded"), 60)


def test_the_predictor_without_a_model_is_admitted(cluster: Cluster, applied: str) -> None:
    """KServe makes a Knative service of it, and Knative a pod, before any promotion."""
    assert applied
    eventually(cluster.predictor_pods, 90)
    containers = {container["name"] for pod in cluster.predictor_pods() for container in pod["spec"]["containers"]}
    # KServe takes a service without a model for one of several models, and adds the agent that would load them.
    assert containers == {"kserve-container", "queue-proxy", "agent"}
    assert not any("initContainers" in pod["spec"] for pod in cluster.predictor_pods())


def _is_complete(cluster: Cluster, manifest: Object) -> bool:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    path = f"/apis/{GROUPS[kind]}/v1/namespaces/{NAMESPACE}/{OWNERS[kind]}/{name}"
    status = (cluster.plane.api.get(path) or {}).get("status", {})
    if kind == "Job":
        return bool(status.get("succeeded"))
    return status.get("readyReplicas", 0) == manifest["spec"].get("replicas", 1)


def _generations(cluster: Cluster, overlay: str) -> dict[tuple[str, str], int]:
    """The generation, by kind and name, of every object of an overlay in our namespace."""
    named = {(item["kind"], item["metadata"]["name"]) for item in objects(overlay)}
    kinds = ",".join(sorted({kind for kind, _ in named} - CLUSTER_WIDE))
    items = cluster.items(kinds, NAMESPACE)
    generations = {(item["kind"], item["metadata"]["name"]): item["metadata"].get("generation", 0) for item in items}
    return {key: generation for key, generation in generations.items() if key in named}
