"""What a promotion must do on any cluster: run against the stand-in, and against real KServe and Knative controllers.

A scenario takes a cluster on which nothing was promoted yet and on which the manifests were applied.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from lungline.deployment.inference_service import ModelFields
from lungline.deployment.kserve import MANAGER, ClusterDeployment
from lungline.deployment.kubernetes_api import ClusterRefused, KubernetesApi
from lungline.errors import ModelNotReady, PromotionConflict

NAME, NAMESPACE = "pneumonia", "lungline"
PATH = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{NAME}"
EVER = 30.0
"""How long the scenarios wait for what never comes."""


class ClusterUnderTest(Protocol):
    """A cluster whose pods become ready as told."""

    pace: float
    """How long a scenario's second lasts here: 1 where real controllers work, less where they are played."""

    def api(self) -> KubernetesApi:
        """The API, with the rights of the account that promotes."""
        ...

    def install(self) -> None:
        """Apply the InferenceService of the manifests, as `kubectl apply --server-side` does."""
        ...

    def delete(self) -> None:
        """Delete the InferenceService; returns when it is gone."""
        ...

    def pods_become_ready(self, after: float | None) -> None:
        """Say when the pods of later revisions become ready, in scenario seconds; None means never."""
        ...

    def run_kserve(self, *, running: bool) -> None:
        """Stop KServe's controller, or start it again; Knative's controllers stay."""
        ...


def deployment(cluster: ClusterUnderTest, ready: float = 240, **options: Any) -> ClusterDeployment:
    """The product's deployment with its own limits, at the cluster's pace."""
    times = {"poll_seconds": 1.0, "ready_seconds": ready, "failed_seconds": 15.0, "patience_seconds": 30.0}
    paced: dict[str, Any] = {name: seconds * cluster.pace for name, seconds in times.items()}
    return ClusterDeployment(cluster.api(), NAME, NAMESPACE, **paced | options)


def uri(version: int | str) -> str:
    """The address of a version's package."""
    return f"s3://lungline-models/pneumonia/{version}/"


def fields(cluster: ClusterUnderTest) -> ModelFields:
    """What the InferenceService says of the model."""
    return ModelFields.of(cluster.api().get(PATH))


def promote(cluster: ClusterUnderTest, version: int | str) -> None:
    """Promote, and look whether it serves."""
    deployment(cluster).deploy(uri(version), str(version))
    assert deployment(cluster).serving() == str(version)
    assert fields(cluster) == ModelFields(uri(version), str(version))


def quick_start_is_waited_for(cluster: ClusterUnderTest) -> None:
    """Pods that are ready after 5 s."""
    cluster.pods_become_ready(5)
    promote(cluster, 1)


def slow_start_is_waited_for(cluster: ClusterUnderTest) -> None:
    """Pods that are ready after 60 s: four times as long as a failure must last to be believed."""
    cluster.pods_become_ready(60)
    promote(cluster, 1)


def pods_that_are_never_ready_end_the_promotion(cluster: ClusterUnderTest) -> None:
    """The version before serves on, and the specification names it again."""
    cluster.pods_become_ready(1)
    promote(cluster, 1)
    cluster.pods_become_ready(None)
    with pytest.raises(ModelNotReady, match="Version 2 takes 0 % of the requests beside version 1 100 %"):
        deployment(cluster, ready=EVER).deploy(uri(2), "2")
    assert deployment(cluster).serving() == "1"
    assert fields(cluster) == ModelFields(uri(1), "1")
    cluster.pods_become_ready(1)
    promote(cluster, 3)


def first_promotion_that_fails_leaves_no_model(cluster: ClusterUnderTest) -> None:
    """Then the next one succeeds, whatever the status still says of the one before."""
    cluster.pods_become_ready(None)
    with pytest.raises(ModelNotReady):
        deployment(cluster, ready=EVER).deploy(uri(1), "1")
    assert fields(cluster) == ModelFields()
    assert deployment(cluster).serving() is None
    cluster.pods_become_ready(1)
    promote(cluster, 2)


def promotions_work_again_after_kserve_was_stopped(cluster: ClusterUnderTest) -> None:
    """KServe misses a promotion and its revert; from then on its counter and the object's differ."""
    cluster.pods_become_ready(1)
    promote(cluster, 1)
    cluster.run_kserve(running=False)
    try:
        with pytest.raises(ModelNotReady, match="KServe has not made its revision yet"):
            deployment(cluster, ready=EVER / 2).deploy(uri(2), "2")
        assert fields(cluster) == ModelFields(uri(1), "1")
        assert deployment(cluster).serving() == "1"
    finally:
        cluster.run_kserve(running=True)
    promote(cluster, 3)
    promote(cluster, 1)


def kserve_that_comes_back_finishes_a_promotion(cluster: ClusterUnderTest) -> None:
    """KServe is away when the promotion begins, and back before it gives up."""
    cluster.pods_become_ready(1)
    promote(cluster, 1)
    cluster.run_kserve(running=False)
    back = threading.Timer(20 * cluster.pace, cluster.run_kserve, kwargs={"running": True})
    back.start()
    try:
        promote(cluster, 2)
    finally:
        back.join()


def missing_object_is_created_and_promoted(cluster: ClusterUnderTest) -> None:
    """Two quick changes, of which KServe sees one."""
    cluster.delete()
    cluster.pods_become_ready(2)
    promote(cluster, 1)


def canary_takes_its_share_and_is_finished(cluster: ClusterUnderTest) -> None:
    """Then a rollback restores the version before."""
    cluster.pods_become_ready(2)
    promote(cluster, 1)
    deployment(cluster).try_out(uri(2), "2", 10)
    assert deployment(cluster).canary() == ("2", 10)
    assert deployment(cluster).serving() == "1"
    promote(cluster, 2)
    assert deployment(cluster).canary() is None
    promote(cluster, 1)


def canary_is_withdrawn(cluster: ClusterUnderTest) -> None:
    """A later version serves all the same."""
    cluster.pods_become_ready(2)
    promote(cluster, 1)
    deployment(cluster).try_out(uri(2), "2", 10)
    assert deployment(cluster).withdraw() == "Version 2 takes no more requests; version 1 serves."
    assert deployment(cluster).canary() is None
    promote(cluster, 3)


def withdrawn_canary_gets_no_requests_again(cluster: ClusterUnderTest) -> None:
    """Neither while a later version starts, nor when that one never does; nor does a later canary's share go to it."""
    cluster.pods_become_ready(2)
    promote(cluster, 1)
    deployment(cluster).try_out(uri(2), "2", 10)
    deployment(cluster).withdraw()
    sentences: list[str] = []
    cluster.pods_become_ready(None)
    with pytest.raises(ModelNotReady):
        deployment(cluster, ready=EVER, on_progress=sentences.append).deploy(uri(3), "3")
    assert deployment(cluster).serving() == "1"
    cluster.pods_become_ready(5)
    deployment(cluster, on_progress=sentences.append).try_out(uri(4), "4", 10)
    assert deployment(cluster).serving() == "1"
    deployment(cluster).withdraw()
    deployment(cluster, on_progress=sentences.append).deploy(uri(5), "5")
    assert sentences
    assert not [sentence for sentence in sentences if "version 2" in sentence or "beside version 4" in sentence]
    assert deployment(cluster).serving() == "5"


def second_of_two_promotions_wins(cluster: ClusterUnderTest) -> None:
    """The first one says so at once, and does not undo the second."""
    cluster.pods_become_ready(1)
    promote(cluster, 1)
    cluster.pods_become_ready(None)
    started = threading.Event()
    with ThreadPoolExecutor() as threads:
        first: Future[str] = threads.submit(_deploy, cluster, 2, lambda _: started.set())
        assert started.wait(30)
        cluster.pods_become_ready(1)
        promote(cluster, 3)
        with pytest.raises(PromotionConflict, match="Somebody else changed the InferenceService meanwhile"):
            first.result(60)
    assert fields(cluster) == ModelFields(uri(3), "3")


def object_that_is_deleted_ends_the_promotion(cluster: ClusterUnderTest) -> None:
    """And is not created again by the revert."""
    cluster.pods_become_ready(None)
    started = threading.Event()
    with ThreadPoolExecutor() as threads:
        promotion: Future[str] = threads.submit(_deploy, cluster, 1, lambda _: started.set())
        assert started.wait(30)
        cluster.delete()
        with pytest.raises(PromotionConflict, match="Somebody deleted the InferenceService"):
            promotion.result(60)
    assert cluster.api().get(PATH) is None


def change_of_an_object_that_is_gone_creates_none(cluster: ClusterUnderTest) -> None:
    """Deleted between the first look and the change."""
    metadata = (cluster.api().get(PATH) or {})["metadata"]
    cluster.delete()
    change = ModelFields(uri(1), "1").document(NAME, NAMESPACE, metadata["uid"])
    with pytest.raises(ClusterRefused, match="uid mismatch"):
        cluster.api().apply(PATH, change, MANAGER)
    assert cluster.api().get(PATH) is None


def manifests_applied_again_leave_the_model(cluster: ClusterUnderTest) -> None:
    """Each owns its own fields."""
    cluster.pods_become_ready(1)
    promote(cluster, 1)
    cluster.install()
    assert fields(cluster) == ModelFields(uri(1), "1")
    assert deployment(cluster).serving() == "1"


def _deploy(cluster: ClusterUnderTest, version: int, on_progress: Callable[[str], None]) -> str:
    return deployment(cluster, on_progress=on_progress).deploy(uri(version), str(version))


SCENARIOS: tuple[Callable[[ClusterUnderTest], None], ...] = (
    quick_start_is_waited_for,
    slow_start_is_waited_for,
    pods_that_are_never_ready_end_the_promotion,
    first_promotion_that_fails_leaves_no_model,
    promotions_work_again_after_kserve_was_stopped,
    kserve_that_comes_back_finishes_a_promotion,
    missing_object_is_created_and_promoted,
    canary_takes_its_share_and_is_finished,
    canary_is_withdrawn,
    withdrawn_canary_gets_no_requests_again,
    second_of_two_promotions_wins,
    object_that_is_deleted_ends_the_promotion,
    change_of_an_object_that_is_gone_creates_none,
    manifests_applied_again_leave_the_model,
)
