"""A predictor with a model under Pod Security: refused with the initializer that KServe ships, admitted with ours."""

import copy
from collections.abc import Iterator

import pytest

from tests.cluster import upstream
from tests.cluster.api import Object, messages
from tests.cluster.cluster import Cluster, product_api
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("overlay")]
CONTAINER = "/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers/default"
# What the Helm chart of KServe 0.20 sets; the plain manifests set nothing.
CHART: Object = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": None,
}


@pytest.fixture
def unmended(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose storage initializer has the context of KServe's own chart."""
    _set_context(cluster, CHART)
    yield cluster
    _set_context(cluster, copy.deepcopy(upstream.RESTRICTED))


def test_chart_s_initializer_is_refused_and_the_mended_one_admitted(unmended: Cluster) -> None:
    cluster = unmended
    api = product_api(cluster.plane.kubeconfig)
    _name_a_model(cluster, "1")
    eventually(lambda: _refusals(cluster), 60)
    (refusal, *_) = _refusals(cluster)
    assert 'violates PodSecurity "restricted:v1.34"' in refusal
    assert "seccompProfile" in refusal
    assert "storage-initializer" in refusal
    assert api.get(CONTAINER), "the object that holds the cure"
    _set_context(cluster, copy.deepcopy(upstream.RESTRICTED))
    _name_a_model(cluster, "2")
    eventually(lambda: _initializers(cluster), 60)
    (initializer, *_) = _initializers(cluster)
    (pod,) = (pod for pod in cluster.predictor_pods() if pod["spec"].get("initContainers"))
    assert {container["name"] for container in pod["spec"]["containers"]} == {"kserve-container", "queue-proxy"}
    assert initializer["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def _set_context(cluster: Cluster, context: Object) -> None:
    cluster.plane.api.patch(CONTAINER, {"spec": {"container": {"securityContext": context}}})


def _name_a_model(cluster: Cluster, version: str) -> None:
    path = "/apis/serving.kserve.io/v1beta1/namespaces/lungline/inferenceservices/pneumonia"
    uri = f"s3://lungline-models/pneumonia/{version}/"
    cluster.plane.api.patch(path, {"spec": {"predictor": {"model": {"storageUri": uri}}}})


def _refusals(cluster: Cluster) -> list[str]:
    events = cluster.plane.api.items("/api/v1/namespaces/lungline/events")
    return messages(events, "FailedCreate")


def _initializers(cluster: Cluster) -> list[Object]:
    return [init for pod in cluster.predictor_pods() for init in pod["spec"].get("initContainers", [])]
