"""The manifests agree with the settings, and every reference in them leads somewhere."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from lungline.settings import PREFIX, setting_names, variable
from tests.support.manifests_of import (
    DEFAULTS,
    EXTERNAL_SECRETS,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    env_of,
    every_overlay,
    generated_secrets,
    matches,
    named,
    objects,
    of_kind,
    pods,
    secret_keys,
    secret_references,
    text_of,
    walk,
)
from tests.support.strict_validator import assert_text_valid

VALID = {variable(name) for name in setting_names()}


# ---------------------------------------------------------------------------------------------------------- the schema


@pytest.mark.parametrize("folder", [*(f"overlays/{overlay}" for overlay in OVERLAYS), "argocd"])
def test_every_overlay_passes_the_strict_validator(folder: str) -> None:
    assert_text_valid(text_of(folder))


# --------------------------------------------------------------------------------------------------- with the settings


@every_overlay
def test_the_settings_file_agrees_with_the_defaults(overlay: str) -> None:
    data = [
        manifest["data"] for manifest in of_kind(overlay, "ConfigMap") if manifest["metadata"]["name"] == "settings"
    ]
    assert len(data) == 2, "one for our namespace, one for the pipeline's"
    assert data[0] == data[1]
    for name in setting_names():
        value = data[0].get(variable(name))
        default = DEFAULTS.model_dump().get(name)
        if value is not None and default is not None and name not in ("deployment", "log_format"):
            assert value == str(default), f"{variable(name)} is not the default of the setting {name}"
    for name in ("uploads_bucket", "results_bucket", "models_bucket", "mlflow_bucket", "model_name", "uploads_topic"):
        assert variable(name) in data[0]
    assert data[0]["LUNGLINE_DEPLOYMENT"] == "cluster", "a promotion in a pod changes the InferenceService"


@every_overlay
def test_every_variable_of_ours_is_a_known_setting(overlay: str) -> None:
    names = {entry["name"] for pod in pods(overlay) for container in pod.containers for entry in env_of(container)}
    names |= {key for manifest in of_kind(overlay, "ConfigMap") for key in manifest["data"]}
    unknown = {name for name in names if name.startswith(PREFIX)} - VALID
    assert unknown == set()


@every_overlay
def test_the_values_of_variables_are_good_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lungline.settings import load_settings

    for pod in pods(overlay):
        for container in pod.containers:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                monkeypatch.delenv(name)
            for entry in env_of(container):
                if entry["name"] in VALID:
                    monkeypatch.setenv(entry["name"], entry.get("value", "from-a-secret"))
            load_settings()


@every_overlay
def test_no_pod_is_given_variables_for_every_service(overlay: str) -> None:
    # Service links would set LUNGLINE_..._SERVICE_HOST, which the settings refuse, and MLFLOW_PORT, which MLflow takes.
    linked = [pod.owner for pod in pods(overlay) if not pod.knative and pod.spec.get("enableServiceLinks") is not False]
    assert linked == []
    assert [name for name in named(overlay, "Service") if name.startswith("lungline-")] == []


# ---------------------------------------------------------------------------------------------------------- references


@every_overlay
def test_secret_references_name_generated_secrets_and_keys(overlay: str) -> None:
    missing = [
        f"{namespace}/{name} {key}"
        for namespace, name, key in secret_references(overlay)
        if (name, key) not in EXTERNAL_SECRETS
        and not (
            key in secret_keys().get((namespace, name), ()) or (key is None and (namespace, name) in secret_keys())
        )
    ]
    assert missing == []


@every_overlay
def test_no_secret_value_is_in_git(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for pod in pods(overlay):
        for container in pod.containers:
            for entry in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|DATABASE$|BACKEND_STORE_URI", entry["name"]):
                    assert "secretKeyRef" in entry.get("valueFrom", {}), f"{pod.owner}: {entry['name']}"


@every_overlay
def test_config_map_references_name_maps_and_keys_that_exist(overlay: str) -> None:
    maps = {
        (manifest["metadata"]["namespace"], manifest["metadata"]["name"]): manifest["data"]
        for manifest in of_kind(overlay, "ConfigMap")
    }
    for pod in pods(overlay):
        for path, value in walk(pod.spec):
            last = path.rpartition(".")[2]
            if last in {"configMapRef", "configMapKeyRef", "configMap"}:
                if value["name"] == "retention":  # a site's own rules
                    assert value["optional"] is True
                    continue
                held = maps[pod.namespace, value["name"]]
                assert value.get("key") is None or value["key"] in held, f"{pod.owner}: {value}"
    for broker in of_kind(overlay, "Broker"):
        config = broker["spec"]["config"]
        assert (config["namespace"], config["name"]) in maps


@every_overlay
def test_accounts_volumes_and_claims_that_are_named_exist(overlay: str) -> None:
    accounts, claims = named(overlay, "ServiceAccount"), named(overlay, "PersistentVolumeClaim")
    (service,) = of_kind(overlay, "InferenceService")
    assert service["spec"]["predictor"]["serviceAccountName"] in accounts
    for pod in pods(overlay):
        assert pod.spec.get("serviceAccountName", "default") in {*accounts, "default"}
        for volume in pod.spec.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
    for binding in of_kind(overlay, "RoleBinding"):
        for subject in binding["subjects"]:
            assert accounts[subject["name"]]["metadata"]["namespace"] == subject["namespace"]
        role = binding["roleRef"]["name"]
        assert role in named(overlay, "Role") or role == "pipeline-runner", "the latter is Kubeflow's own"


@every_overlay
def test_cluster_addresses_are_services_with_that_port(overlay: str) -> None:
    ports = {
        name: {port["port"] for port in manifest["spec"]["ports"]}
        for name, manifest in named(overlay, "Service").items()
    }
    for cluster, kafka in named(overlay, "Kafka").items():
        ports[f"{cluster}-kafka-bootstrap"] = {listener["port"] for listener in kafka["spec"]["kafka"]["listeners"]}
    everything = json.dumps([*objects(overlay), *generated_secrets()])
    addresses = re.findall(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?(?::(\d+))?", everything)
    assert len(addresses) > 5
    for name, namespace, port in addresses:
        assert namespace == NAMESPACE
        assert name in ports, f"nothing is called {name}"
        assert not port or int(port) in ports[name], f"{name} does not listen on {port}"


@every_overlay
def test_every_service_selects_pods_that_have_its_port(overlay: str) -> None:
    for name, service in named(overlay, "Service").items():
        selected = [pod for pod in pods(overlay) if pod.long and matches(service["spec"]["selector"], pod.labels)]
        assert len(selected) == 1, f"{name} selects {[pod.owner for pod in selected]}"
        names = {port["name"] for container in selected[0].containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@every_overlay
def test_probes_use_ports_that_exist(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            ports = {
                value for port in container.get("ports", []) for value in (port.get("name"), port["containerPort"])
            }
            for path, value in walk(container):
                if path.rpartition(".")[2] in {"httpGet", "tcpSocket"}:
                    assert value["port"] in ports, f"{pod.owner}: {path}"


# ------------------------------------------------------------------------------------------------------------- argo cd


def test_argo_cd_applies_overlays_and_ignores_promotions() -> None:
    manifests = list(yaml.safe_load_all(text_of("argocd")))
    (project,) = [manifest for manifest in manifests if manifest["kind"] == "AppProject"]
    reachable = {manifest["namespace"] for manifest in project["spec"]["destinations"]}
    applications = [manifest for manifest in manifests if manifest["kind"] == "Application"]
    assert {manifest["spec"]["project"] for manifest in applications} == {project["metadata"]["name"]}
    for manifest in applications:
        overlay = Path(manifest["spec"]["source"]["path"])
        assert (ROOT / overlay / "kustomization.yaml").exists()
        used = {made["metadata"]["namespace"] for made in objects(overlay.name) if "namespace" in made["metadata"]}
        assert used <= reachable
        kinds = {made["kind"] for made in objects(overlay.name) if "namespace" not in made["metadata"]}
        assert kinds <= {allowed["kind"] for allowed in project["spec"]["clusterResourceWhitelist"]}
        (ignored,) = manifest["spec"]["ignoreDifferences"]
        assert "/spec/predictor/model/storageUri" in ignored["jsonPointers"]
        # With RespectIgnoreDifferences, Argo CD copies ignored fields from the live object into what it applies.
        assert manifest["spec"]["syncPolicy"]["syncOptions"] == ["ServerSideApply=true", "CreateNamespace=false"]
