"""Promotions on a cluster: the real client against a Kubernetes API made small."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lungline.deployment.base import Deployment
from lungline.deployment.inference_service import render
from lungline.deployment.kserve import LONGEST_SECONDS, ClusterDeployment
from lungline.deployment.kubernetes_api import ClusterRefused, ClusterUnavailable, KubernetesApi
from lungline.deployment.status import FormerFailure
from lungline.errors import ModelNotReady, PackageError, PromotionConflict
from lungline.promotion.promotion import LEASE
from tests.support.kserve_controllers import LOAD_FAILURE
from tests.support.kubernetes_api import ROOT, Cluster, api_of, running_cluster

MANIFEST = yaml.safe_load((ROOT / "manifests/base/inference/inference_service.yaml").read_text())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def deployment(cluster: Cluster, **options: Any) -> ClusterDeployment:
    quick: dict[str, Any] = {"poll_seconds": 0.01, "ready_seconds": 5.0, "failed_seconds": 0.2, "patience_seconds": 1.0}
    return ClusterDeployment(api_of(cluster), "pneumonia", **quick | options)


def uri(version: int) -> str:
    return f"s3://lungline-models/pneumonia/{version}/"


def install(cluster: Cluster) -> None:
    """What `kubectl apply -k` does."""
    cluster.apply("pneumonia", render("pneumonia", "lungline"), "kubectl")


def test_it_is_a_deployment_like_the_laptops(cluster: Cluster) -> None:
    there: Deployment = deployment(cluster)
    assert there.accepts_synthetic is False
    assert LEASE.total_seconds() > LONGEST_SECONDS


def test_the_manifest_is_the_one_that_the_overlays_apply() -> None:
    assert render("pneumonia", "lungline")["spec"] == MANIFEST["spec"]


def test_a_promotion_ends_when_the_new_version_takes_all_requests(cluster: Cluster) -> None:
    install(cluster)
    cluster.controllers.starts = 0.1
    progress: list[str] = []
    sentence = deployment(cluster, on_progress=progress.append).deploy(uri(1), "1")
    assert sentence == "Version 1 serves as lungline/pneumonia."
    assert "Version 1 takes 0 % of the requests." in progress
    assert deployment(cluster).serving() == "1"
    assert cluster.services["pneumonia"]["spec"]["predictor"]["model"]["storageUri"] == uri(1)


def test_a_cluster_without_the_object_gets_the_whole_manifest_first(cluster: Cluster) -> None:
    deployment(cluster).deploy(uri(1), "1")
    predictor = cluster.services["pneumonia"]["spec"]["predictor"]
    assert predictor["model"]["runtime"] == MANIFEST["spec"]["predictor"]["model"]["runtime"]
    assert predictor["serviceAccountName"] == "predictor"


def test_a_promotion_leaves_alone_what_the_platform_team_owns(cluster: Cluster) -> None:
    install(cluster)
    cluster.services["pneumonia"]["spec"]["predictor"]["maxReplicas"] = 24
    deployment(cluster).deploy(uri(1), "1")
    assert cluster.services["pneumonia"]["spec"]["predictor"]["maxReplicas"] == 24
    owned = {way for way in cluster.owned["lungline-promotion"] if way[0] == "spec"}
    assert {way[-1] for way in owned} == {"storageUri", "name"}, "the model format's name goes with the model"
    install(cluster)
    assert cluster.services["pneumonia"]["spec"]["predictor"]["model"]["storageUri"] == uri(1)


def test_nothing_serves_before_the_first_promotion(cluster: Cluster) -> None:
    assert deployment(cluster).serving() is None
    install(cluster)
    assert deployment(cluster).serving() is None


def test_the_old_versions_status_is_not_the_new_ones(cluster: Cluster) -> None:
    """A status of the version before is not taken for the new ones."""
    install(cluster)
    deployment(cluster).deploy(uri(1), "1")
    cluster.controllers.starts = 1000
    with pytest.raises(ModelNotReady, match=r"Not within 0 s: Version 2 takes 0 %"):
        deployment(cluster, ready_seconds=0.3).deploy(uri(2), "2")


def test_a_package_that_fails_to_load_is_reverted(cluster: Cluster) -> None:
    """A package that does not load says why and the old version serves on."""
    install(cluster)
    deployment(cluster).deploy(uri(1), "1")
    cluster.controllers.plays = "failing"
    with pytest.raises(ModelNotReady, match=r"^Version 2 does not come up: ModelLoadFailed: No objects found in s3://"):
        deployment(cluster).deploy(uri(2), "2")
    assert cluster.services["pneumonia"]["spec"]["predictor"]["model"]["storageUri"] == uri(1)
    cluster.controllers.plays = "ready"
    deployment(cluster).deploy(uri(1), "1")
    assert deployment(cluster).serving() == "1"


def test_a_failure_that_kserve_repeats_is_not_the_next_versions(cluster: Cluster) -> None:
    """KServe says why the last model was not loaded until it has looked at the pods of the next."""
    install(cluster)
    cluster.controllers.plays = "failing"
    with pytest.raises(ModelNotReady):
        deployment(cluster).deploy(uri(1), "1")
    cluster.controllers.plays, cluster.controllers.starts, cluster.controllers.stale_load = "ready", 0.8, 0.6
    deployment(cluster).deploy(uri(2), "2")
    assert deployment(cluster).serving() == "2"


def test_the_same_failure_again_is_a_new_failure() -> None:
    failed = {"status": {"modelStatus": {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": LOAD_FAILURE}}}
    loading = {"status": {"modelStatus": {"transitionStatus": "InProgress", "lastFailureInfo": LOAD_FAILURE}}}
    former = FormerFailure(failed)
    assert [former.is_repeated(each) for each in (failed, loading, failed)] == [True, False, False]
    assert not FormerFailure(failed, seconds=-1).is_repeated(failed)


def test_a_first_promotion_that_fails_leaves_no_model(cluster: Cluster) -> None:
    install(cluster)
    cluster.controllers.plays = "failing"
    with pytest.raises(ModelNotReady):
        deployment(cluster).deploy(uri(1), "1")
    assert "storageUri" not in cluster.services["pneumonia"]["spec"]["predictor"]["model"]


def test_a_condition_that_stays_false_is_the_reason(cluster: Cluster) -> None:
    install(cluster)
    cluster.controllers.plays = "crashing"
    with pytest.raises(ModelNotReady, match="does not come up: ExitCode137: Container failed with: out of memory"):
        deployment(cluster).deploy(uri(1), "1")


def test_a_failure_of_the_revision_before_is_not_the_new_ones(cluster: Cluster) -> None:
    """It stays in the status until KServe acts; here it never does."""
    install(cluster)
    assert deployment(cluster).serving() is None
    cluster.controllers.runs = False
    with pytest.raises(ModelNotReady, match="KServe has not made its revision yet"):
        deployment(cluster, ready_seconds=1.0).deploy(uri(1), "1")


def test_a_version_serves_once_its_own_revision_does(cluster: Cluster) -> None:
    """After a trial that was withdrawn, all requests go to the champion, and the newest revision is the other's."""
    install(cluster)
    there = deployment(cluster, ready_seconds=0.5)
    there.deploy(uri(1), "1")
    there.try_out(uri(2), "2", 10)
    there.withdraw()
    cluster.controllers.runs = False
    with pytest.raises(ModelNotReady, match="KServe has not made its revision yet"):
        there.deploy(uri(1), "1")


def test_a_pod_that_is_refused_is_the_reason(cluster: Cluster) -> None:
    """The revision says so; the service's own conditions are the previous revision's for a while."""
    install(cluster)
    cluster.controllers.plays = "refused"
    with pytest.raises(ModelNotReady, match=r"Version 1 does not come up: FailedCreate: .* violates PodSecurity"):
        deployment(cluster).deploy(uri(1), "1")


def test_a_service_that_is_stopped_is_the_reason(cluster: Cluster) -> None:
    """The condition Stopped is in every service that runs, with status False."""
    install(cluster)
    cluster.controllers.plays = "stuck"
    there = deployment(cluster)

    def stop(_: str) -> None:
        cluster.controllers.runs = False
        stopped = [{"type": "Stopped", "status": "True", "severity": "Info"}]
        cluster.services["pneumonia"]["status"]["conditions"] = stopped

    there = deployment(cluster, on_progress=stop)
    with pytest.raises(ModelNotReady, match=r"stopped by its annotation serving\.kserve\.io/stop"):
        there.deploy(uri(1), "1")


@pytest.mark.parametrize(
    ("verb", "kind"), [("get", "inferenceservices"), ("patch", "inferenceservices"), ("list", "revisions")]
)
def test_a_missing_right_is_named(cluster: Cluster, verb: str, kind: str) -> None:
    """And nothing is left changed."""
    install(cluster)
    cluster.forbidden = {(verb, kind)}
    with pytest.raises(ClusterRefused, match=f'cannot {verb} resource "{kind}"'):
        deployment(cluster).deploy(uri(1), "1")
    assert "storageUri" not in cluster.services["pneumonia"]["spec"]["predictor"]["model"]


def test_pods_that_may_not_be_listed_hide_no_reason(cluster: Cluster) -> None:
    install(cluster)
    cluster.forbidden = {("list", "pods")}
    cluster.controllers.plays = "failing"
    with pytest.raises(ModelNotReady, match="No objects found in s3://"):
        deployment(cluster).deploy(uri(1), "1")


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
def test_a_change_is_tried_again_while_that_may_help(cluster: Cluster, status: int) -> None:
    """The API server restarts, or another change comes in between; 0 is a connection that is cut."""
    install(cluster)
    there = deployment(cluster)
    there.deploy(uri(1), "1")
    cluster.controllers.plays = "failing"

    def away(sentence: str) -> None:
        if sentence.startswith("Version 2"):
            cluster.refuses, cluster.refusals = status, 20

    with pytest.raises(ModelNotReady):
        deployment(cluster, on_progress=away).deploy(uri(2), "2")
    assert cluster.services["pneumonia"]["spec"]["predictor"]["model"]["storageUri"] == uri(1)


def test_a_revert_that_fails_is_told(cluster: Cluster) -> None:
    install(cluster)
    deployment(cluster).deploy(uri(1), "1")
    cluster.controllers.plays = "failing"

    def away(_: str) -> None:
        cluster.forbidden = {("patch", "inferenceservices")}

    sentence = r"still names version 2, which `lungline promote 1` undoes: The Kubernetes API refuses: .* cannot patch"
    with pytest.raises(ModelNotReady, match=sentence):
        deployment(cluster, on_progress=away).deploy(uri(2), "2")


def test_without_kserve_the_doctor_is_named(cluster: Cluster) -> None:
    install(cluster)
    cluster.refuses, cluster.refusals = 404, 2
    with pytest.raises(ClusterRefused, match="`lungline doctor --cluster` says what is missing"):
        deployment(cluster).deploy(uri(1), "1")


def test_the_pods_own_message_is_shown(cluster: Cluster) -> None:
    install(cluster)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "predictor:0.1.0"'}
    cluster.pods = [
        {
            "metadata": {"labels": {"serving.kserve.io/inferenceservice": "pneumonia"}},
            "status": {"containerStatuses": [{"name": "kserve-container", "state": {"waiting": waiting}}]},
        }
    ]
    cluster.controllers.plays = "stuck"
    with pytest.raises(ModelNotReady, match=r"Container kserve-container: ImagePullBackOff: Back-off pulling image"):
        deployment(cluster, ready_seconds=0.2).deploy(uri(1), "1")


def test_an_object_that_somebody_deletes_ends_the_wait(cluster: Cluster) -> None:
    install(cluster)
    cluster.controllers.starts = 1000

    def deleted(_: str) -> None:
        cluster.delete("pneumonia")

    with pytest.raises(PromotionConflict, match="Somebody deleted the InferenceService"):
        deployment(cluster, on_progress=deleted).deploy(uri(1), "1")


def test_an_api_outage_does_not_end_a_promotion(cluster: Cluster) -> None:
    """An api server that is away for a moment ends no promotion."""
    install(cluster)
    cluster.controllers.starts = 0.1

    def away(_: str) -> None:
        cluster.refuses, cluster.refusals = 503, 3

    assert deployment(cluster, on_progress=away, failed_seconds=2.0).deploy(uri(1), "1")


def test_a_canary_takes_its_share_is_finished_and_takes_all(cluster: Cluster) -> None:
    install(cluster)
    there = deployment(cluster)
    there.deploy(uri(1), "1")
    assert there.try_out(uri(2), "2", 10) == "Version 2 takes 10 % of the requests of lungline/pneumonia."
    assert there.serving() == "1"
    assert there.canary() == ("2", 10)
    there.deploy(uri(2), "2")
    assert there.serving() == "2"
    assert there.canary() is None
    assert "canaryTrafficPercent" not in cluster.services["pneumonia"]["spec"]["predictor"]


def test_a_canary_is_withdrawn_at_once(cluster: Cluster) -> None:
    """A canary is withdrawn at once and a later version serves."""
    install(cluster)
    there = deployment(cluster)
    there.deploy(uri(1), "1")
    there.try_out(uri(2), "2", 10)
    assert there.withdraw() == "Version 2 takes no more requests; version 1 serves."
    assert there.serving() == "1"
    assert there.canary() is None
    there.deploy(uri(3), "3")
    assert there.serving() == "3"
    assert there.revisions()["3"].startswith("pneumonia-predictor-")


def test_a_failed_canary_is_withdrawn(cluster: Cluster) -> None:
    """A canary that has failed meanwhile is withdrawn all the more."""
    install(cluster)
    there = deployment(cluster)
    there.deploy(uri(1), "1")
    there.try_out(uri(2), "2", 10)
    cluster.controllers.revisions[-1].plays = "crashing"
    assert there.withdraw() == "Version 2 takes no more requests; version 1 serves."


def test_a_canary_that_does_not_come_up_changes_nothing(cluster: Cluster) -> None:
    install(cluster)
    there = deployment(cluster)
    there.deploy(uri(1), "1")
    cluster.controllers.plays = "failing"
    with pytest.raises(ModelNotReady):
        there.try_out(uri(2), "2", 10)
    predictor = cluster.services["pneumonia"]["spec"]["predictor"]
    assert predictor["model"]["storageUri"] == uri(1)
    assert "canaryTrafficPercent" not in predictor


def test_a_canary_needs_a_champion_and_a_share(cluster: Cluster) -> None:
    install(cluster)
    there = deployment(cluster)
    with pytest.raises(PackageError, match="No other version is in service"):
        there.try_out(uri(1), "1", 10)
    there.deploy(uri(1), "1")
    with pytest.raises(PackageError, match="1 to 99 percent"):
        there.try_out(uri(2), "2", 100)
    with pytest.raises(PackageError, match="No canary of pneumonia is out"):
        there.withdraw()


@pytest.mark.parametrize(("status", "error"), [(403, ClusterRefused), (422, ClusterRefused), (503, ClusterUnavailable)])
def test_the_error_repeats_the_api_servers_message(cluster: Cluster, status: int, error: type[Exception]) -> None:
    install(cluster)
    cluster.refuses, cluster.refusals = status, 1
    with pytest.raises(error, match=r"the stand-in is set to refuse\.$"):
        deployment(cluster).deploy(uri(1), "1")


def test_a_cluster_that_does_not_answer_is_unavailable(cluster: Cluster) -> None:
    there = Cluster(address="http://127.0.0.1:9")
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        deployment(there).serving()


def test_without_a_way_to_a_cluster_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ClusterRefused, match="Cannot connect to a cluster"):
        KubernetesApi.connect()
