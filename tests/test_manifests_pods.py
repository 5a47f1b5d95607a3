"""What pods may use, run and reach."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.command_lines import parse
from tests.support.manifests_of import (
    DEFAULTS,
    MANIFESTS,
    NAMESPACE,
    every_overlay,
    generated_secrets,
    named,
    objects,
    of_kind,
    pods,
    selects,
    text_of,
    walk,
    with_component,
)

# ----------------------------------------------------------------------------------------------------------- inference


@every_overlay
def test_the_inference_service_names_model_and_runtime(overlay: str) -> None:
    (service,) = of_kind(overlay, "InferenceService")
    predictor = service["spec"]["predictor"]
    runtime = named(overlay, "ServingRuntime")[predictor["model"]["runtime"]]
    assert service["metadata"]["name"] == DEFAULTS.model_name
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    assert predictor["model"]["modelFormat"]["name"] in {
        manifest["name"] for manifest in runtime["spec"]["supportedModelFormats"]
    }
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    # Promotions decide which version serves; a manifest that named one would undo them.
    assert "storageUri" not in predictor["model"]
    assert "canaryTrafficPercent" not in predictor
    minimum = {"minikube": 0, "minikube-seaweedfs": 0, "production": 2}[overlay]
    assert predictor["minReplicas"] == minimum


@every_overlay
def test_predictor_and_knative_accept_the_predictors_pod(overlay: str) -> None:
    (runtime,) = of_kind(overlay, "ServingRuntime")
    (container,) = runtime["spec"]["containers"]
    text = subprocess.run(
        [sys.executable, "-m", "serving", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(argument.split("=")[0] in text for argument in container["args"])
    assert len(container["ports"]) == 1
    assert all("fieldRef" not in path for path, _ in walk(container))
    assert all(set(volume) <= {"name", "emptyDir", "secret", "configMap"} for volume in runtime["spec"]["volumes"])


@every_overlay
def test_the_predictor_states_no_context_for_its_pod(overlay: str) -> None:
    """Knative refuses one unless the cluster has a switch on that changes the pods of everybody else, too."""
    (service,) = of_kind(overlay, "InferenceService")
    assert "securityContext" not in service["spec"]["predictor"]


def test_the_component_adds_what_knatives_switch_allows(tmp_path: Path) -> None:
    """With `secure-pod-defaults` Knative lets exactly this field of a pod's context through."""
    rendered = with_component(tmp_path, "minikube", "pod-seccomp")
    changed = [manifest for manifest in rendered if manifest not in objects("minikube")]
    assert [manifest["kind"] for manifest in changed] == ["InferenceService"]
    assert changed[0]["spec"]["predictor"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


def test_kserve_downloads_from_the_store_of_the_settings() -> None:
    (secret,) = [manifest for manifest in generated_secrets() if manifest["metadata"]["name"] == "s3-predictor"]
    settings = dict(line.split("=", 1) for line in (MANIFESTS / "base/settings.env").read_text().split())
    notes = secret["metadata"]["annotations"]
    scheme, _, host = settings["LUNGLINE_S3_ENDPOINT"].partition("://")
    assert notes["serving.kserve.io/s3-endpoint"] == host
    assert notes["serving.kserve.io/s3-usehttps"] == ("1" if scheme == "https" else "0")
    assert notes["serving.kserve.io/s3-region"] == settings["LUNGLINE_S3_REGION"]


@every_overlay
def test_a_pipeline_may_change_only_our_inference_service(overlay: str) -> None:
    role = named(overlay, "Role")["promoter"]
    for rule in role["rules"]:
        if {"patch", "update", "get"} & set(rule["verbs"]):
            assert rule["resourceNames"] == [DEFAULTS.model_name]
        assert set(rule["verbs"]) <= {"get", "list", "watch", "create", "patch", "update"}


# ---------------------------------------------------------------------------------------------------------------- pods


@every_overlay
def test_every_container_has_requests_and_limits(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][bound]), f"{pod.owner}: {container['name']}"
    (kafka,) = of_kind(overlay, "Kafka")
    (nodes,) = of_kind(overlay, "KafkaNodePool")
    operator = kafka["spec"]["entityOperator"]
    for part in (nodes["spec"], kafka["spec"]["kafkaExporter"], operator["topicOperator"], operator["userOperator"]):
        assert {"requests", "limits"} == set(part["resources"])


@every_overlay
def test_every_long_running_container_has_probes(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.spec["containers"] if pod.long else []:
            assert {"readinessProbe", "livenessProbe"} <= set(container), f"{pod.owner}: {container['name']}"


@every_overlay
def test_every_pod_is_fit_for_a_restricted_namespace(overlay: str) -> None:
    labels = named(overlay, "Namespace")[NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(overlay):
        outer = pod.spec.get("securityContext", {})
        reads_logs = pod.owner == "Deployment/log-collector"  # through the API
        assert pod.knative or pod.spec["automountServiceAccountToken"] is reads_logs
        for container in pod.containers:
            inner = outer | container["securityContext"]
            assert inner["runAsNonRoot"] is True
            assert inner["runAsUser"] > 0
            assert inner["seccompProfile"] == {"type": "RuntimeDefault"}
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert inner["readOnlyRootFilesystem"] is True
    (kafka,) = of_kind(overlay, "Kafka")
    for path, value in walk(kafka["spec"]):
        if path.endswith("ontainer"):
            assert value["securityContext"]["capabilities"] == {"drop": ["ALL"]}, path


@every_overlay
def test_every_pod_may_write_to_its_volume(overlay: str) -> None:
    """A new volume belongs to root; only a group that the pod states makes it writable for others."""
    with_claims = [
        pod
        for pod in pods(overlay)
        if any("persistentVolumeClaim" in volume for volume in pod.spec.get("volumes", []))
        or pod.owner in {f"StatefulSet/{name}" for name in named(overlay, "StatefulSet")}
    ]
    contexts = {pod.owner: pod.spec["securityContext"] for pod in with_claims}
    logs = {"Deployment/logs", "Deployment/log-collector"}
    assert len(contexts.keys() - logs) == 2, "the store and the database"
    assert logs <= contexts.keys() or overlay != "production"
    for owner, context in contexts.items():
        assert context["fsGroup"] == context["runAsGroup"], owner
    # Strimzi's default (group 0, that of Kafka's image) holds only where the manifest states no context at all.
    (kafka,) = of_kind(overlay, "Kafka")
    contexts["Kafka"] = kafka["spec"]["kafka"]["template"]["pod"]["securityContext"]
    assert contexts["Kafka"]["fsGroup"] == 0
    assert {context["fsGroupChangePolicy"] for context in contexts.values()} == {"OnRootMismatch"}


@every_overlay
def test_every_schedule_states_its_time_zone(overlay: str) -> None:
    jobs = named(overlay, "CronJob")
    assert {"monitor", "reconcile", "replay"} <= set(jobs)
    assert {name: job["spec"].get("timeZone") for name, job in jobs.items()} == dict.fromkeys(jobs, "Etc/UTC")


@every_overlay
def test_no_pod_may_fill_its_node(overlay: str) -> None:
    for pod in pods(overlay):
        for volume in pod.spec.get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], f"{pod.owner}: {volume['name']}"


@every_overlay
def test_only_stateful_pods_have_the_priority_class(overlay: str) -> None:
    (priority_class,) = named(overlay, "PriorityClass")
    owners = {pod.owner for pod in pods(overlay) if pod.spec.get("priorityClassName") == priority_class}
    store = "Deployment/seaweedfs" if overlay == "minikube-seaweedfs" else "Deployment/object-store"
    assert owners == {store, "StatefulSet/postgres"}
    (kafka,) = of_kind(overlay, "Kafka")
    assert kafka["spec"]["kafka"]["template"]["pod"]["priorityClassName"] == priority_class


@every_overlay
def test_disruption_budgets_select_pods_and_allow_draining(overlay: str) -> None:
    budgets = named(overlay, "PodDisruptionBudget")
    assert ("predictor" in budgets) == (overlay == "production")
    for name, budget in budgets.items():
        assert any(selects(budget["spec"]["selector"], pod.labels) for pod in pods(overlay)), name
        assert budget["spec"]["maxUnavailable"] == 1


@every_overlay
def test_commands_in_pods_are_ones_that_exist(overlay: str) -> None:
    ours = [pod for pod in pods(overlay) if pod.owner.startswith("CronJob/")]
    assert {"CronJob/reconcile", "CronJob/replay"} <= {pod.owner for pod in ours}
    for pod in ours:
        assert pod.containers[0]["image"].rpartition("/")[2].startswith("tools"), "its entry point is lungline"
        parse(pod.containers[0]["args"])


@every_overlay
def test_every_image_has_a_fixed_tag(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            assert re.fullmatch(r"[a-z0-9.-]+(/[a-z0-9._-]+)+:[A-Za-z0-9][\w.-]*\d[\w.-]*", container["image"]), (
                pod.owner
            )
            assert not container["image"].endswith(":latest")


def test_the_pipeline_runs_in_the_image_of_the_settings() -> None:
    images = {container["image"] for pod in pods("production") for container in pod.containers}
    assert DEFAULTS.kfp_image in images


def test_seaweedfs_replaces_minio_and_changes_nothing_else() -> None:
    swapped = text_of("overlays/minikube-seaweedfs")
    assert "minio/" not in swapped
    ours = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects("minikube")}
    theirs = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects("minikube-seaweedfs")}
    changed = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert changed == {
        ("Service", "object-store"), ("ServiceMonitor", "object-store"), ("NetworkPolicy", "to-object-store")
    }  # fmt: skip
