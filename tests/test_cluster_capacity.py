"""The walk-through on minikube fits the machine that it asks for, counted from what every part requests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lungline.settings_blocks import TrainingPodSettings
from pipelines.resources import shares
from tests.support.manifests_of import ROOT, SHARED, Object, of_kind, pods

TEXT = (ROOT / "docs/cluster.md").read_text()
UPSTREAM = SHARED / "k8s/upstream"
# The parts that upstream's manifests describe, by their folders; replicas are those that are shipped.
FOLDERS = {
    "Knative Serving": ["serving/config/core/deployments"],
    "Kourier": ["net-kourier/config"],
    "Knative Eventing": ["eventing/config/core/deployments"],
    "Knative's Kafka broker, source and sink": [
        "eventing-kafka-broker/control-plane/config/eventing-kafka-broker",
        *(f"eventing-kafka-broker/data-plane/config/{part}" for part in ("broker", "source", "sink")),
    ],
}
AWAKE, TOGETHER = "the predictor, while it is awake", "together"
OURS, TRAINING = "Lungline with Kafka, PostgreSQL, MLflow and the store", "a training step, while it runs"
Sum = tuple[int, int]
"""Thousandths of a CPU, and MiB."""


def cpu(value: str) -> int:
    return int(value.removesuffix("m")) if value.endswith("m") else int(float(value) * 1000)


def memory(value: str) -> int:
    return int(value.removesuffix("Mi")) if value.endswith("Mi") else int(float(re.sub("Gi?$|g$", "", value)) * 1024)


def together(requests: Iterator[Object] | list[Object]) -> Sum:
    held = list(requests)
    return sum(cpu(str(each.get("cpu", "0"))) for each in held), sum(
        memory(str(each.get("memory", "0Mi"))) for each in held
    )


def table() -> dict[str, Sum]:
    """What docs/cluster.md says, by part."""
    rows = re.findall(r"^\| ([^|]+) \| (\d+m) \| (\d+Mi) \|$", TEXT, flags=re.MULTILINE)
    return {part: (cpu(first), memory(second)) for part, first, second in rows}


def lowered() -> dict[str, Object]:
    """The requests that the walk-through sets for upstream's own workloads."""
    commands = re.findall(r"set resources ([^\n]*?) *\\?\n? *--requests (\S+)", TEXT)
    return {
        workload.partition("/")[2]: dict(pair.split("=") for pair in requests.split(","))
        for workloads, requests in commands
        for workload in workloads.split()
        if "/" in workload
    }


def shipped(folder: Path) -> Iterator[Object]:
    """The requests of every container in a folder of upstream's, after the walk-through's commands."""
    for path in sorted(folder.rglob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest and manifest["kind"] in {"Deployment", "StatefulSet"}:
                spec, name = manifest["spec"], manifest["metadata"]["name"]
                for container in spec["template"]["spec"]["containers"] * spec.get("replicas", 1):
                    yield lowered().get(name) or container.get("resources", {}).get("requests", {})


@pytest.mark.parametrize("part", FOLDERS)
def test_a_part_of_others_asks_for_what_the_table_says(part: str) -> None:
    if not UPSTREAM.exists():
        pytest.skip(f"upstream's manifests are not at {UPSTREAM}: set SHARED_FOLDER to the folder that has them")
    assert together(request for folder in FOLDERS[part] for request in shipped(UPSTREAM / folder)) == table()[part]


def test_every_workload_that_is_lowered_exists() -> None:
    if not UPSTREAM.exists():
        pytest.skip(f"upstream's manifests are not at {UPSTREAM}: set SHARED_FOLDER to the folder that has them")
    text = "".join(path.read_text() for path in UPSTREAM.rglob("500-*.yaml"))
    names = set(re.findall(r"^  name: (\S+)", text, flags=re.MULTILINE))
    assert len(lowered()) == 4
    assert set(lowered()) <= names


@pytest.mark.parametrize("overlay", ["minikube", "minikube-seaweedfs"])
def test_our_own_pods_ask_for_what_the_table_says(overlay: str) -> None:
    """At most: with SeaweedFS it is a little more or less than with MinIO, which the table counts."""
    (nodes,), (kafka,) = of_kind(overlay, "KafkaNodePool"), of_kind(overlay, "Kafka")
    operator = kafka["spec"]["entityOperator"]
    parts = [nodes["spec"], kafka["spec"]["kafkaExporter"], operator["topicOperator"], operator["userOperator"]]
    requests = [part["resources"]["requests"] for part in parts]
    requests += [
        container["resources"]["requests"]
        for pod in pods(overlay)
        if pod.long and not pod.knative
        for container in pod.spec["containers"]
    ]
    (service,) = of_kind(overlay, "InferenceService")
    # Beside the predictor: Knative's proxy (25m by default). KServe's initializer asks for less, and runs before.
    awake = together([service["spec"]["predictor"]["model"]["resources"]["requests"], {"cpu": "25m"}])
    stated = table()
    if overlay == "minikube":
        assert together(requests) == stated[OURS]
        assert awake == stated[AWAKE]
    assert together(requests)[0] <= stated[OURS][0] + 100
    assert together(requests)[1] <= stated[OURS][1] + 200


def test_the_walk_through_fits_the_machine_that_it_asks_for() -> None:
    stated = table()
    # No other step of the pipeline asks for more, and they run one after the other.
    steps = [
        together([{"cpu": step.cpu[0], "memory": step.memory[0]}]) for step in shares(TrainingPodSettings()).values()
    ]
    assert stated[TRAINING] == (max(step[0] for step in steps), max(step[1] for step in steps))
    total = stated.pop(TOGETHER)
    assert total == (sum(part[0] for part in stated.values()), sum(part[1] for part in stated.values()))
    (start,) = re.findall(r"minikube start .*", TEXT)
    cpus, size = re.findall(r"--cpus (\S+) --memory (\S+)", start)[0]
    assert total[0] <= cpu(cpus)
    # What Prometheus, Grafana and cert-manager use without asking has room, too.
    assert total[1] <= memory(size) - 2048
    assert f"{cpus} CPUs and {memory(size) // 1024} GiB" in TEXT
