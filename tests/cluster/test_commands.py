"""`lungline promote`, `rollback` and `doctor` as a person types them, on a real control plane and a real registry."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lungline.deployment.inference_service import render
from lungline.package.card import CodeFacts, DataFacts
from lungline.registry import registration, tracking
from lungline.registry.versions import Registry
from lungline.settings import load_settings, variable
from lungline.site_key import generate_key
from tests.cluster.api import Object
from tests.cluster.cluster import Cluster
from tests.support.manifests_of import ROOT
from tests.support.promotion_scenarios import NAME, NAMESPACE, PATH
from tests.support.tiny_package import write_tiny_package
from tests.support.waiting import eventually
from tests.test_canary import prometheus

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("overlay")]
WHO = ("--by", "Dr. A", "--reason", "better on our own films")
ON = ("--on", "cluster")
REAL = DataFacts(name="films", digest="d" * 64, synthetic=False)
REVISIONS = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/revisions"


class Person:
    """Somebody at a terminal, with a kubeconfig and the registry's addresses."""

    def __init__(self, cluster: Cluster, registry: dict[str, str], kubeconfig: Path) -> None:
        self._cluster = cluster
        named = {variable(name): value for name, value in registry.items()}
        self._environment = {**os.environ, **named, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str) -> Any:
        """The JSON value of a command that must succeed."""
        done = self.tried(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *arguments, "--json"]
        return subprocess.run(
            command, env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
        )


@pytest.fixture(scope="module")
def registry(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a registry with three versions that were trained on real films."""
    folder = tmp_path_factory.mktemp("registry")
    named = {**services, "home": str(folder / "home"), "site_key": generate_key().pem}
    settings = load_settings(named)
    for number in "123":
        write_tiny_package(folder / number, seed=int(number), version=None, data=REAL)
        (folder / f"run-{number}").mkdir()
        tracking.new_record(settings, REAL, CodeFacts(version="0.1.0")).save(folder / f"run-{number}")
        run = tracking.settle(settings, folder / f"run-{number}")
        tracking.note(settings, run, tags={tracking.GATE: "passed"})
        registration.register(
            Registry(settings), folder / number, run_id=run, pipeline_run="pipe/7", metrics={"auc": 0.98}
        )
    return named


@pytest.fixture(scope="module")
def person(cluster: Cluster, overlay: object, registry: dict[str, str]) -> Iterator[Person]:
    """With the rights of the pipeline's account, on an InferenceService that was never promoted."""
    del overlay
    cluster.plane.api.delete(PATH)
    eventually(lambda: cluster.plane.api.get(PATH) is None and not cluster.plane.api.items(REVISIONS), 120)
    manifest = json.dumps(render(NAME, NAMESPACE))
    cluster.plane.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    yield Person(cluster, registry, cluster.plane.account_kubeconfig("kubeflow", "lungline-pipeline"))
    cluster.node.check()


def test_a_version_is_promoted_tried_watched_finished_and_rolled_back(cluster: Cluster, person: Person) -> None:
    cluster.node.predictor = 5.0
    done = person.run("promote", "1", *ON, *WHO)
    assert done["sentence"] == "Version 1 serves as lungline/pneumonia."
    assert _uri(cluster) == "s3://lungline-models/pneumonia/1/"

    tried = person.run("promote", "2", *ON, "--canary", "10")
    assert tried["canary"] == {"version": "2", "percent": 10}
    assert _shares(cluster) == [90, 10]

    champion, canary = _revisions(cluster)[-2:]
    fine = {(name, "count"): 200.0 for name in (champion, canary)} | {(name, "p99"): 0.2 for name in (champion, canary)}
    with prometheus(fine) as address:
        watched = person.run("promote", *ON, "--watch", "0", "--prometheus", address, "--finish", *WHO)
    assert watched["watched"]["passed"] is True
    assert watched["promotion"]["version"] == "2"
    assert _shares(cluster) == [100]

    # Field ownership: the manifests applied again leave the model alone, a rollback restores the one before.
    cluster.apply_overlay("minikube", "--force-conflicts")
    assert _uri(cluster) == "s3://lungline-models/pneumonia/2/"
    back = person.run("rollback", *ON, *WHO)
    assert (back["version"], back["replaced"]) == ("1", "2")
    assert _uri(cluster) == "s3://lungline-models/pneumonia/1/"
    assert _shares(cluster) == [100]


def test_a_worse_canary_is_withdrawn(cluster: Cluster, person: Person) -> None:
    cluster.node.predictor = 2.0
    person.run("promote", "1", *ON, *WHO)
    person.run("promote", "3", *ON, "--canary", "10")
    champion, canary = _revisions(cluster)[-2:]
    worse = {(name, "count"): 200.0 for name in (champion, canary)} | {(canary, "errors"): 40.0}
    with prometheus(worse) as address:
        done = person.tried("promote", *ON, "--watch", "60", "--prometheus", address, "--finish", *WHO)
    assert done.returncode == 1
    assert json.loads(done.stdout)["watched"]["withdrawn"] is True
    predictor = _service(cluster)["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 0


def test_the_doctor_names_what_has_no_controller_here(cluster: Cluster, person: Person) -> None:
    """Strimzi, the Kafka broker's controllers and Kubeflow Pipelines are not here; the rest is right."""
    cluster.node.predictor = 2.0
    person.run("promote", "3", *ON, *WHO)
    administrator = Person(cluster, {}, cluster.plane.kubeconfig)
    eventually(lambda: _is_ready(cluster), 60)
    done = administrator.tried("doctor", "--cluster")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    failed = sorted(name for name, check in checks.items() if not check["passed"])
    print("\n".join(f"{name}: {checks[name]['finding']}" for name in failed))
    assert done.returncode == 1
    assert checks["inferenceservices/pneumonia"]["passed"]
    assert checks["deployments/worklist"]["passed"]
    assert checks["Kubernetes"]["finding"] == "1.34"
    absent = ("pipeline", "kafka", "broker", "trigger")
    assert [name for name in failed if not any(word in name.lower() for word in absent)] == []


def test_a_crash_is_told_and_the_champion_serves_on(cluster: Cluster, person: Person) -> None:
    """Knative looks at a crashed pod when its deadline has passed: 200 s by the manifest, shorter here."""
    cluster.node.predictor = 2.0
    deadline = {"serving.knative.dev/progress-deadline": "30s"}
    cluster.plane.api.patch(PATH, {"metadata": {"annotations": deadline}})
    person.run("promote", "1", *ON, *WHO)
    serving = _serving(cluster)
    cluster.node.predictor = "crash"
    done = person.tried("promote", "2", *ON, *WHO)
    cluster.node.predictor = 2.0
    assert done.returncode == 1
    print(done.stderr)
    assert "Version 2 does not come up" in " ".join(done.stderr.split())
    assert _serving(cluster) == serving


def test_one_of_two_promotions_at_once_is_refused(cluster: Cluster, person: Person) -> None:
    cluster.node.predictor = 2.0
    person.run("promote", "1", *ON, *WHO)
    cluster.node.predictor = 15.0
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(person.tried, "promote", version, *ON, *WHO) for version in ("2", "3")]
        codes = {version: done.result(300) for version, done in zip("23", both, strict=True)}
    winners = [version for version, done in codes.items() if done.returncode == 0]
    assert len(winners) == 1, [done.stderr for done in codes.values()]
    assert _uri(cluster) == f"s3://lungline-models/pneumonia/{winners[0]}/"
    (loser,) = (done for done in codes.values() if done.returncode)
    assert "Traceback" not in loser.stderr


def _service(cluster: Cluster) -> Object:
    service = cluster.plane.api.get(PATH)
    assert service
    return service


def _uri(cluster: Cluster) -> str:
    return _service(cluster)["spec"]["predictor"]["model"]["storageUri"]


def _is_ready(cluster: Cluster) -> bool:
    conditions = _service(cluster)["status"]["conditions"]
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _shares(cluster: Cluster) -> list[int]:
    """What revisions get of the requests by Knative's own route, the largest first."""
    path = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/routes/{NAME}-predictor"
    route = cluster.plane.api.get(path) or {}
    shares = [target.get("percent", 0) for target in route["status"]["traffic"]]
    return sorted((share for share in shares if share), reverse=True)


def _serving(cluster: Cluster) -> tuple[int, str | None]:
    """The largest share of the requests, and the version of the revision that gets it."""
    path = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/routes/{NAME}-predictor"
    route = cluster.plane.api.get(path) or {}
    share, name = max((target.get("percent", 0), target["revisionName"]) for target in route["status"]["traffic"])
    (revision,) = (item for item in cluster.plane.api.items(REVISIONS) if item["metadata"]["name"] == name)
    return share, revision["metadata"]["annotations"].get("lungline.org/version")


def _revisions(cluster: Cluster) -> list[str]:
    return sorted(revision["metadata"]["name"] for revision in cluster.plane.api.items(REVISIONS))
