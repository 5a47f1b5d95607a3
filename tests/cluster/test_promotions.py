"""The scenarios of promotions (tests/support/promotion_scenarios.py) against real KServe and Knative controllers."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from lungline.deployment.inference_service import render
from lungline.deployment.kubernetes_api import KubernetesApi
from lungline.errors import Unavailable
from tests.cluster.cluster import Cluster, product_api
from tests.support.promotion_scenarios import (
    NAME,
    NAMESPACE,
    PATH,
    SCENARIOS,
    ClusterUnderTest,
    deployment,
    fields,
    promote,
    uri,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("overlay")]
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kserve/leases/kserve-controller-manager-leader-lock"
GONE_SECONDS = 120


class Real:
    """The real cluster, with the rights of the pipeline's account."""

    pace = 1.0

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._api = product_api(cluster.plane.account_kubeconfig("kubeflow", "lungline-pipeline"))

    def api(self) -> KubernetesApi:
        return self._api

    def install(self) -> None:
        manifest = json.dumps(render(NAME, NAMESPACE))
        self._cluster.plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)

    def delete(self) -> None:
        api = self._cluster.plane.api
        api.delete(PATH)
        eventually(lambda: api.get(PATH) is None, GONE_SECONDS)

    def delete_all(self) -> None:
        """Delete the InferenceService and wait until what Knative made of it is collected too."""
        self.delete()
        revisions = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/revisions"
        eventually(lambda: not self._cluster.plane.api.items(revisions), GONE_SECONDS)

    def pods_become_ready(self, after: float | None) -> None:
        self._cluster.node.predictor = "never" if after is None else float(after)

    def run_kserve(self, *, running: bool) -> None:
        """Its webhooks and its controllers are one program; without the lease, the webhooks alone work."""
        api = self._cluster.plane.api
        if running:
            api.delete(LEASE)
            return
        self._cluster.stop("kserve-manager")
        spec = {"holderIdentity": "tests", "leaseDurationSeconds": 3600, "renewTime": _now()}
        api.patch(LEASE, {"spec": spec})
        self._cluster.start("kserve-manager")
        eventually(self.is_validated, 60)

    def is_validated(self) -> bool:
        manifest = json.dumps(render(NAME, NAMESPACE))
        done = self._cluster.plane.kubectl(
            *("apply", "--server-side", "--dry-run=server", "-f", "-"), stdin=manifest, check=False
        )
        return done.returncode == 0


@pytest.fixture
def real(cluster: Cluster) -> Iterator[Real]:
    """The InferenceService as the manifests have it, new."""
    real = Real(cluster)
    real.delete_all()
    real.install()
    yield real
    cluster.node.check()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_kserve_and_knative_play_it(real: Real, scenario: Callable[[ClusterUnderTest], None]) -> None:
    scenario(real)


def test_promotion_is_refused_while_kserve_is_away(real: Real, cluster: Cluster) -> None:
    """Webhooks and controllers together: nothing is changed, and the next promotion succeeds."""
    real.pods_become_ready(1)
    promote(real, 1)
    cluster.stop("kserve-manager")
    try:
        with pytest.raises(Unavailable, match="failed calling webhook"):
            deployment(real, patience_seconds=3).deploy(uri(2), "2")
        assert deployment(real).serving() == "1"
    finally:
        cluster.start("kserve-manager")
    eventually(real.is_validated, 60)
    assert fields(real).version == "1"
    promote(real, 3)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
