"""The scenarios of promotions, against the stand-in of KServe and Knative."""

from collections.abc import Callable

import pytest

from lungline.deployment.inference_service import render
from lungline.deployment.kubernetes_api import KubernetesApi
from tests.support.kubernetes_api import Cluster, api_of, running_cluster
from tests.support.promotion_scenarios import NAME, NAMESPACE, SCENARIOS, ClusterUnderTest

PACE = 0.02


class StandIn:
    """The stand-in, at a fiftieth of the real pace."""

    pace = PACE

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.controllers.reacts = 1.5 * PACE
        cluster.controllers.stale = 2 * PACE
        self.install()

    def api(self) -> KubernetesApi:
        return api_of(self._cluster)

    def install(self) -> None:
        self._cluster.apply(NAME, render(NAME, NAMESPACE), "kubectl")

    def delete(self) -> None:
        self._cluster.delete(NAME)

    def pods_become_ready(self, after: float | None) -> None:
        self._cluster.controllers.plays = "stuck" if after is None else "ready"
        self._cluster.controllers.starts = (after or 0) * PACE

    def run_kserve(self, *, running: bool) -> None:
        self._cluster.controllers.runs = running


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_stand_in_plays_it(scenario: Callable[[ClusterUnderTest], None]) -> None:
    with running_cluster() as cluster:
        scenario(StandIn(cluster))
