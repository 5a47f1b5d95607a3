"""The component pod-seccomp where KServe stays as its chart installs it, with and without Knative's switch."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import upstream
from tests.cluster.api import Object
from tests.cluster.cluster import Cluster
from tests.support.manifests_of import with_component
from tests.support.waiting import eventually

pytestmark = pytest.mark.cluster
CONTAINER = "/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers/default"
FEATURES = "/api/v1/namespaces/knative-serving/configmaps/config-features"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/lungline/inferenceservices/pneumonia"


@pytest.fixture
def chart(cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """The overlay minikube with the component, where the initializer has the context of KServe's chart."""
    cluster.plane.api.patch(CONTAINER, {"spec": {"container": {"securityContext": {"seccompProfile": None}}}})
    cluster.create_secrets()
    cluster.apply(with_component(tmp_path, "minikube", "pod-seccomp"))
    yield cluster
    _switch(cluster, None)
    cluster.plane.api.patch(CONTAINER, {"spec": {"container": {"securityContext": copy.deepcopy(upstream.RESTRICTED)}}})
    cluster.remove_overlay()


def test_the_component_needs_the_switch_and_then_suffices(chart: Cluster) -> None:
    _name_a_model(chart, "1")
    eventually(lambda: "must not set the field(s): spec.template.spec.securityContext" in _messages(chart), 60)
    for number, value in enumerate(("enabled", "AllowRootBounded"), 2):
        _switch(chart, value)
        _name_a_model(chart, str(number))
        eventually(lambda wanted=f"/{number}/": wanted in str(_initializers(chart)), 90)
    pods = [pod["spec"] for pod in chart.predictor_pods()]
    assert {str(pod["securityContext"]) for pod in pods} == {"{'seccompProfile': {'type': 'RuntimeDefault'}}"}
    assert all("seccompProfile" not in initializer["securityContext"] for initializer in _initializers(chart))


def _switch(cluster: Cluster, value: str | None) -> None:
    cluster.plane.api.patch(FEATURES, {"data": {"secure-pod-defaults": value}})


def _name_a_model(cluster: Cluster, version: str) -> None:
    uri = f"s3://lungline-models/pneumonia/{version}/"
    cluster.plane.api.patch(SERVICE, {"spec": {"predictor": {"model": {"storageUri": uri}}}})


def _messages(cluster: Cluster) -> str:
    status = (cluster.plane.api.get(SERVICE) or {}).get("status", {})
    return " ".join(str(condition.get("message")) for condition in status.get("conditions", []))


def _initializers(cluster: Cluster) -> list[Object]:
    return [init for pod in cluster.predictor_pods() for init in pod["spec"].get("initContainers", [])]
