"""Lungline on a real node, with real pods: promotions, predictions from zero, uploads, killed pods.

The tests run in order, like the docs' walk-through: each begins where the one before ended.
"""

import json
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lungline.errors import LunglineError
from lungline.package.card import CodeFacts, DataFacts
from lungline.registry import registration, tracking
from lungline.registry.versions import Registry
from lungline.storage.s3 import Storage
from tests.cluster import isolation
from tests.cluster.binaries import PROGRAMS, cache_folder
from tests.cluster.network import HOST
from tests.cluster.node_cluster import KAFKA, running_node
from tests.cluster.node_lungline import NAMESPACE, Lungline, install_lungline
from tests.cluster.node_policies import enforced, reached, start_pod
from tests.support.apache_kafka import ApacheKafka, running_kafka
from tests.support.manifests_of import SHARED, fresh_secrets
from tests.support.tiny_package import write_tiny_package
from tests.support.waiting import eventually

pytestmark = [pytest.mark.node, pytest.mark.timeout(1500)]  # the first test starts everything
WHO = ("--by", "Dr. A", "--reason", "better on our own films")
REAL = DataFacts(name="films", digest="d" * 64, synthetic=False)
XRAYS = SHARED / "data/chest_xray.zip"
PREDICTOR_PODS = "serving.kserve.io/inferenceservice=pneumonia"


@pytest.fixture(scope="module")
def lungline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lungline]:
    """The overlay minikube-seaweedfs on a real node, with two versions in its registry and none in service."""
    if not isolation.is_isolated():
        pytest.skip("a real node runs in namespaces of its own: `make cluster-test ARGS='-m node'`")
    folder = tmp_path_factory.mktemp("node")
    images = cache_folder() / "containerd"
    names = (f"{KAFKA}.{NAMESPACE}.svc.cluster.local",)
    with (
        running_node(folder, images) as (cluster, node),
        running_kafka(_made(folder / "kafka"), host=HOST, names=names) as kafka,
    ):
        lungline = install_lungline(cluster, node, kafka, folder, _secrets(kafka))
        for number in "12":
            _register(lungline, folder / number, seed=int(number))
        yield lungline


def test_promotion_from_a_laptop_serves_in_a_pod(lungline: Lungline) -> None:
    """Storage initializer, Pod Security, probes, read-only root: the first model answers through the gateway."""
    began = time.monotonic()
    lungline.command("promote", "1", "--on", "cluster", *WHO)
    print(f"promoted in {time.monotonic() - began:.1f} s")
    (pod,) = _ready_pods(lungline)
    assert pod["spec"]["initContainers"][0]["name"] == "storage-initializer"
    container = next(item for item in pod["spec"]["containers"] if item["name"] == "kserve-container")
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert lungline.predict(xrays(1)[0])["model_version"] == "1"


def test_rollback_restores_the_former_model(lungline: Lungline) -> None:
    lungline.command("promote", "2", "--on", "cluster", *WHO)
    assert lungline.predict(xrays(1)[0])["model_version"] == "2"
    began = time.monotonic()
    lungline.command("rollback", "--on", "cluster", *WHO)
    print(f"rolled back in {time.monotonic() - began:.1f} s")
    assert lungline.predict(xrays(1)[0])["model_version"] == "1"


def test_first_prediction_wakes_a_predictor_at_zero(lungline: Lungline) -> None:
    eventually(lambda: not lungline.pods(PREDICTOR_PODS), 300)
    began = time.monotonic()
    assert lungline.predict(xrays(1)[0])["model_version"] == "1"
    print(f"first prediction from zero: {time.monotonic() - began:.1f} s")
    eventually(lambda: _ready_pods(lungline))  # the kubelet says so a little later than the activator noticed
    print("of it:", timeline(_ready_pods(lungline)[0]))


def test_uploads_reach_the_worklist(lungline: Lungline) -> None:
    """With the credentials of imaging equipment, which may only upload."""
    with lungline.events():
        keys = _upload(lungline, "flow", xrays(3))
        eventually(lambda: _shown(lungline, "flow") == len(keys), 180)
    assert _results(lungline, "flow") == len(keys)


def test_killed_pods_lose_and_repeat_no_upload(lungline: Lungline) -> None:
    """SIGKILL of predictor, worklist and store while uploads arrive."""
    images = xrays(12)
    with lungline.events():
        for number, name in enumerate(("kserve-container", "worklist", "seaweedfs")):
            _upload(lungline, f"kill-{name}", images[4 * number : 4 * number + 2])
            _kill(lungline, name)
            _upload(lungline, f"kill-{name}-after", images[4 * number + 2 : 4 * number + 4])
        eventually(lambda: _shown(lungline, "kill") == len(images), 420)
    assert _results(lungline, "kill") == len(images)


STORE, DATABASE = f"object-store.{NAMESPACE}.svc.cluster.local:9000", f"postgres.{NAMESPACE}.svc.cluster.local:5432"
EVENTS = f"worklist-events.{NAMESPACE}.svc.cluster.local:80"
CLIENTS = (
    ("stranger", NAMESPACE, {}, set[str]()),
    ("s3", NAMESPACE, {"lungline.org/s3-client": "true"}, {STORE}),
    ("database", NAMESPACE, {"lungline.org/postgres-client": "true"}, {DATABASE}),
    ("dispatcher", "knative-eventing", {}, {EVENTS}),
    ("outsider", "default", {}, set[str]()),
)


def test_network_policies_let_only_clients_through(lungline: Lungline) -> None:
    """Last, because Apache Kafka runs beside the node, where our policies let nobody go."""
    if not PROGRAMS["kube-router"].path.exists():
        pytest.skip("kube-router is not built")
    targets = [STORE, DATABASE, EVENTS]
    for name, namespace, labels, _ in CLIENTS:
        start_pod(lungline.cluster, name, namespace, labels)
        assert reached(lungline.cluster, name, namespace, targets) == set(targets)
    with enforced(lungline.cluster):
        for name, namespace, _, allowed in CLIENTS:
            eventually(lambda: reached(lungline.cluster, name, namespace, targets) == allowed, 90)  # noqa: B023


def xrays(count: int) -> list[bytes]:
    """So many real X-rays."""
    with zipfile.ZipFile(XRAYS) as archive:
        names = [
            name for name in archive.namelist() if "/test/" in f"/{name}" and name.endswith((".jpeg", ".jpg", ".png"))
        ]
        return [archive.read(name) for name in names[:: max(1, len(names) // count)][:count]]


def timeline(pod: dict[str, Any]) -> dict[str, str]:
    """When a pod was made, initialised and ready, and when its containers started, by Kubernetes' own clock."""
    conditions = {item["type"]: item["lastTransitionTime"] for item in pod["status"]["conditions"]}
    started = {item["name"]: item["state"]["running"]["startedAt"] for item in pod["status"]["containerStatuses"]}
    return {"created": pod["metadata"]["creationTimestamp"], **conditions, **started}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _secrets(kafka: ApacheKafka) -> list[dict[str, Any]]:
    """New secrets, with the passwords and the authority that the running Kafka has."""
    made = fresh_secrets()
    for secret in made:
        name, values = secret["metadata"]["name"], secret["stringData"]
        if name.removeprefix("kafka-") in kafka.passwords and "password" in values:
            values["password"] = kafka.passwords[name.removeprefix("kafka-")]
        if "ca.crt" in values:
            values["ca.crt"] = kafka.authority.read_text()
    return made


def _register(lungline: Lungline, folder: Path, *, seed: int) -> None:
    settings = lungline.settings("pipeline")
    write_tiny_package(folder / "package", seed=seed, version=None, data=REAL)
    (folder / "run").mkdir()
    tracking.new_record(settings, REAL, CodeFacts(version="0.1.0")).save(folder / "run")
    run = tracking.settle(settings, folder / "run")
    tracking.note(settings, run, tags={tracking.GATE: "passed"})
    registration.register(
        Registry(settings), folder / "package", run_id=run, pipeline_run=f"run/{seed}", metrics={"auc": 0.98}
    )


def _ready_pods(lungline: Lungline) -> list[dict[str, Any]]:
    return [
        pod
        for pod in lungline.pods(PREDICTOR_PODS)
        if "deletionTimestamp" not in pod["metadata"]
        and any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])
    ]


def _upload(lungline: Lungline, prefix: str, images: list[bytes]) -> list[str]:
    """Upload as imaging equipment does: again until the store has accepted it."""
    settings = lungline.settings("scanner")
    storage = Storage.from_settings(settings)
    keys = [f"{prefix}/{number}.jpeg" for number in range(len(images))]
    for key, image in zip(keys, images, strict=True):
        eventually(lambda key=key, image=image: _accepted(storage, settings.uploads_bucket, key, image), 240)
    return keys


def _accepted(storage: Storage, bucket: str, key: str, image: bytes) -> bool:
    try:
        storage.put(bucket, key, image)
    except LunglineError:
        time.sleep(1)
        return False
    return True


def _shown(lungline: Lungline, prefix: str) -> int:
    """How many uploads the worklist shows."""
    rows = lungline.query(f"select count(*), count(distinct key) from entries where key like '{prefix}%'")
    total, distinct = map(int, rows[0])
    assert total == distinct, "an upload stands on the worklist twice"
    return total


def _results(lungline: Lungline, prefix: str) -> int:
    """How many result records the store has for uploads with a prefix."""
    storage = Storage.from_settings(lungline.settings("reconcile"))
    bucket = lungline.settings("reconcile").results_bucket
    records = [json.loads(storage.get(bucket, info.key).data) for info in storage.list(bucket, "results/")]
    return sum(record["upload"]["key"].startswith(prefix) for record in records)


def _kill(lungline: Lungline, name: str) -> None:
    """SIGKILL for a container's process, from outside, as the kernel's memory killer does."""
    for line in lungline.node.ctr("tasks", "list").splitlines()[1:]:
        task, pid, _ = line.split()
        if f'"io.kubernetes.container.name": "{name}"' in lungline.node.ctr("containers", "info", task):
            subprocess.run(["kill", "-KILL", pid], check=True)
