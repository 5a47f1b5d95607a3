"""What no schema can check: that the manifests agree with each other, with the settings and with the code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lungline.events import uploads
from lungline.results import events
from lungline.settings import PREFIX, Settings, setting_names, variable
from tests.support.command_lines import parse
from tests.support.manifests_of import (
    MANIFESTS,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    Object,
    Pod,
    generated_secrets,
    named,
    objects,
    of_kind,
    pods,
    text_of,
    walk,
)

SHARED = Path(os.environ.get("LUNGLINE_SHARED", ROOT.parent / "shared"))
DEFAULTS = Settings.model_construct()
KNOWN = {variable(name) for name in setting_names()}
# Secrets that only the house can know, or that cert-manager makes; docs/cluster.md lists them.
OF_THE_HOUSE = {
    ("worklist-oidc", "client-secret"),
    ("worklist-notices", "rules.toml"),
    ("worklist-tls", None),
    ("object-store-tls", None),
}
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def secrets() -> dict[tuple[str, str], set[str]]:
    return {(one["metadata"]["namespace"], one["metadata"]["name"]): set(one["stringData"]) for one in _generated()}


@cache
def _generated() -> list[Object]:
    return generated_secrets()


# ---------------------------------------------------------------------------------------------------------- the schema


@pytest.mark.parametrize("folder", [*(f"overlays/{overlay}" for overlay in OVERLAYS), "argocd"])
def test_every_overlay_passes_the_strict_validator(folder: str) -> None:
    validator = SHARED / "k8s/validate.py"
    if not validator.exists():
        pytest.skip(
            f"the validator and the CRDs are not at {validator}: set LUNGLINE_SHARED to the folder that has them"
        )
    command = [sys.executable, validator, "--crds", SHARED / "k8s/crds", "--k8s", "1.34"]
    done = subprocess.run(command, input=text_of(folder), capture_output=True, text=True, check=False, timeout=120)
    failures = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join(failures) + done.stderr
    assert re.fullmatch(r"\d+ passed, 0 failed", failures[-1])


# -------------------------------------------------------------------------------------------------- with the settings


@every_overlay
def test_what_the_parts_are_told_agrees_with_the_settings_defaults(overlay: str) -> None:
    told = [one["data"] for one in of_kind(overlay, "ConfigMap") if one["metadata"]["name"] == "settings"]
    assert len(told) == 2, "one for our namespace, one for the pipeline's"
    assert told[0] == told[1]
    for name in setting_names():
        value = told[0].get(variable(name))
        default = DEFAULTS.model_dump().get(name)
        if value is not None and default is not None and name not in ("deployment", "log_format"):
            assert value == str(default), f"{variable(name)} is not the default of the setting {name}"
    for name in ("uploads_bucket", "results_bucket", "models_bucket", "mlflow_bucket", "model_name", "uploads_topic"):
        assert variable(name) in told[0]
    assert told[0]["LUNGLINE_DEPLOYMENT"] == "cluster", "a promotion in a pod changes the InferenceService"


@every_overlay
def test_every_variable_of_ours_is_a_known_setting(overlay: str) -> None:
    names = {entry["name"] for pod in pods(overlay) for container in pod.containers for entry in _env(container)}
    names |= {
        key for one in of_kind(overlay, "ConfigMap") if one["metadata"]["name"] == "settings" for key in one["data"]
    }
    unknown = {name for name in names if name.startswith(PREFIX)} - KNOWN
    assert unknown == set()


@every_overlay
def test_the_values_of_variables_are_good_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lungline.settings import load_settings

    for pod in pods(overlay):
        for container in pod.containers:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                monkeypatch.delenv(name)
            for entry in _env(container):
                if entry["name"] in KNOWN:
                    monkeypatch.setenv(entry["name"], entry.get("value", "from-a-secret"))
            load_settings()


@every_overlay
def test_no_pod_is_given_variables_for_every_service(overlay: str) -> None:
    # Service links would set LUNGLINE_..._SERVICE_HOST, which the settings refuse, and MLFLOW_PORT, which MLflow takes.
    linked = [pod.owner for pod in pods(overlay) if not pod.knative and pod.spec.get("enableServiceLinks") is not False]
    assert linked == []
    assert [name for name in named(overlay, "Service") if name.startswith("lungline-")] == []


# ----------------------------------------------------------------------------------------------------------- references


@every_overlay
def test_every_secret_that_is_named_is_made_with_the_keys_that_are_asked_for(overlay: str) -> None:
    missing = [
        f"{namespace}/{name} {key}"
        for namespace, name, key in _secret_references(overlay)
        if (name, key) not in OF_THE_HOUSE
        and not (key in secrets().get((namespace, name), ()) or (key is None and (namespace, name) in secrets()))
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
def test_every_config_map_that_is_named_is_there_with_the_keys_that_are_asked_for(overlay: str) -> None:
    maps = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["data"] for one in of_kind(overlay, "ConfigMap")
    }
    for pod in pods(overlay):
        for path, value in walk(pod.spec):
            last = path.rpartition(".")[2]
            if last in {"configMapRef", "configMapKeyRef", "configMap"}:
                held = maps[pod.namespace, value["name"]]
                assert value.get("key") is None or value["key"] in held, f"{pod.owner}: {value}"
    for broker in of_kind(overlay, "Broker"):
        config = broker["spec"]["config"]
        assert (config["namespace"], config["name"]) in maps


@every_overlay
def test_every_account_volume_and_claim_that_is_named_is_there(overlay: str) -> None:
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
def test_every_address_within_the_cluster_is_a_service_with_that_port(overlay: str) -> None:
    ports = {name: {port["port"] for port in one["spec"]["ports"]} for name, one in named(overlay, "Service").items()}
    for cluster, kafka in named(overlay, "Kafka").items():
        ports[f"{cluster}-kafka-bootstrap"] = {listener["port"] for listener in kafka["spec"]["kafka"]["listeners"]}
    everything = json.dumps([*objects(overlay), *_generated()])
    found = re.findall(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?(?::(\d+))?", everything)
    assert len(found) > 5
    for name, namespace, port in found:
        assert namespace == NAMESPACE
        assert name in ports, f"nothing is called {name}"
        assert not port or int(port) in ports[name], f"{name} does not listen on {port}"


@every_overlay
def test_every_service_finds_pods_that_have_its_port(overlay: str) -> None:
    for name, service in named(overlay, "Service").items():
        selected = [pod for pod in pods(overlay) if pod.long and _matches(service["spec"]["selector"], pod.labels)]
        assert len(selected) == 1, f"{name} selects {[pod.owner for pod in selected]}"
        names = {port["name"] for container in selected[0].containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@every_overlay
def test_probes_knock_at_ports_that_are_there(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            ports = {
                value for port in container.get("ports", []) for value in (port.get("name"), port["containerPort"])
            }
            for path, value in walk(container):
                if path.rpartition(".")[2] in {"httpGet", "tcpSocket"}:
                    assert value["port"] in ports, f"{pod.owner}: {path}"


# ---------------------------------------------------------------------------------------------------------------- kafka


@every_overlay
def test_topics_are_those_of_the_settings_and_all_that_are_named_exist(overlay: str) -> None:
    topics = set(named(overlay, "KafkaTopic"))
    ours = {DEFAULTS.uploads_topic, DEFAULTS.results_topic, DEFAULTS.dead_letters_topic}
    assert ours <= topics
    named_topics = {topic for one in of_kind(overlay, "KafkaSource") for topic in one["spec"]["topics"]}
    named_topics |= {one["spec"]["topic"] for one in of_kind(overlay, "KafkaSink")}
    named_topics |= {
        one["metadata"]["annotations"]["kafka.eventing.knative.dev/external.topic"]
        for one in of_kind(overlay, "Broker")
    }
    assert named_topics == topics
    for kind in ("KafkaTopic", "KafkaUser", "KafkaNodePool"):
        for one in of_kind(overlay, kind):
            assert one["metadata"]["labels"]["strimzi.io/cluster"] in named(overlay, "Kafka")


@every_overlay
def test_no_topic_asks_for_more_copies_than_there_are_brokers(overlay: str) -> None:
    (nodes,), (kafka,) = of_kind(overlay, "KafkaNodePool"), of_kind(overlay, "Kafka")
    brokers, config = nodes["spec"]["replicas"], kafka["spec"]["kafka"]["config"]
    topics = [one["spec"] for one in of_kind(overlay, "KafkaTopic")]
    copies = {topic["replicas"] for topic in topics} | {value for key, value in config.items() if "replication" in key}
    copies.add(int(named(overlay, "ConfigMap")["broker-kafka"]["data"]["default.topic.replication.factor"]))
    assert copies == {min(brokers, 3)}
    for topic in topics:
        # One broker may be away without stopping the writers.
        assert topic["config"]["min.insync.replicas"] == max(1, topic["replicas"] - 1)


@every_overlay
def test_everybody_may_do_on_kafka_what_they_have_to_and_the_rest_not(overlay: str) -> None:
    may = {name: _rights(user) for name, user in named(overlay, "KafkaUser").items()}
    for source in of_kind(overlay, "KafkaSource"):
        assert all("Read" in may["eventing"][f"topic {topic}"] for topic in source["spec"]["topics"])
        assert source["spec"]["consumerGroup"].startswith("lungline-")
    assert "Read" in may["eventing"]["group lungline-*"]
    assert "Read" in may["eventing"]["group knative-*"]
    for sink in of_kind(overlay, "KafkaSink"):
        assert "Write" in may["eventing"][f"topic {sink['spec']['topic']}"]
    assert may.get("object-store", {}) in ({}, {f"topic {DEFAULTS.uploads_topic}": {"Write", "Describe"}})
    assert "Write" not in may["eventing"][f"topic {DEFAULTS.uploads_topic}"]
    assert all("All" not in rights for user in may.values() for rights in user.values())


@every_overlay
def test_a_result_that_died_is_replayed_to_where_the_worklist_hears_of_it(overlay: str) -> None:
    (broker,) = of_kind(overlay, "Broker")
    topic = broker["metadata"]["annotations"]["kafka.eventing.knative.dev/external.topic"]
    (replay,) = [pod for pod in pods(overlay) if pod.owner == "CronJob/replay"]
    env = {entry["name"]: entry.get("value") for entry in _env(replay.containers[0])}
    assert env["LUNGLINE_RESULTS_TOPIC"] == topic
    assert "Write" in _rights(named(overlay, "KafkaUser")["tools"])[f"topic {topic}"]


@every_overlay
def test_users_of_kafka_and_their_secrets_have_the_same_names(overlay: str) -> None:
    values = {one["metadata"]["name"]: one["stringData"] for one in _generated()}
    for name, user in named(overlay, "KafkaUser").items():
        reference = user["spec"]["authentication"]["password"]["valueFrom"]["secretKeyRef"]
        assert values[reference["name"]]["user"] == name


# --------------------------------------------------------------------------------------------------------------- events


@every_overlay
def test_an_upload_event_reaches_the_predictor_and_its_reply_the_worklist(overlay: str) -> None:
    triggers = named(overlay, "Trigger")
    judge, show = triggers["judge"]["spec"], triggers["show"]["spec"]
    assert judge["filter"]["attributes"] == {"type": uploads.UPLOAD_TYPE}
    assert judge["subscriber"]["ref"]["name"] == DEFAULTS.model_name
    assert judge["subscriber"]["uri"] == f"/v1/models/{DEFAULTS.model_name}:predict"
    assert show["filter"]["attributes"] == {"type": events.RESULT_TYPE}
    assert show["subscriber"]["ref"]["name"] == "worklist-events"
    prefix = triggers["publish"]["spec"]["filters"][0]["prefix"]["type"]
    assert events.RESULT_TYPE.startswith(prefix)
    assert events.RESULTS_TYPE.startswith(prefix)
    assert not uploads.UPLOAD_TYPE.startswith(prefix)


@every_overlay
def test_the_worklist_has_the_routes_that_events_are_sent_to(overlay: str) -> None:
    from worklist.web.events import router

    routes = {getattr(route, "path", "") for route in router.routes}
    sinks = [one["spec"]["sink"] for one in of_kind(overlay, "KafkaSource")]
    sinks += [one["spec"]["subscriber"] for one in of_kind(overlay, "Trigger")]
    sent = {sink["uri"] for sink in sinks if sink["ref"]["name"].startswith("worklist")}
    assert sent == {"/", "/dead-letters"}
    assert sent <= routes


@every_overlay
def test_every_destination_of_events_exists(overlay: str) -> None:
    here = {(one["kind"], one["metadata"]["name"], one["apiVersion"]) for one in objects(overlay)}
    for one in of_kind(overlay, "Trigger", "KafkaSource", "Broker"):
        for path, value in walk(one["spec"]):
            if path.rpartition(".")[2] == "ref":
                assert (value["kind"], value["name"], value["apiVersion"]) in here, path
        assert one["kind"] != "Trigger" or ("Broker", one["spec"]["broker"], "eventing.knative.dev/v1") in here


@every_overlay
def test_delivery_is_stated_in_full_because_a_part_replaces_all_defaults(overlay: str) -> None:
    for one in of_kind(overlay, "Trigger", "KafkaSource", "Broker"):
        delivery = one["spec"]["delivery"]
        assert {"retry", "backoffPolicy", "backoffDelay", "timeout"} <= set(delivery), one["metadata"]["name"]
        # What cannot be told of a dead letter must not become another one.
        assert ("deadLetterSink" in delivery) == (one["metadata"]["name"] != "dead-letters")


@every_overlay
def test_each_waits_longer_than_the_one_behind_it(overlay: str) -> None:
    from serving.app import AppLimits

    (service,) = of_kind(overlay, "InferenceService")
    patience = named(overlay, "Trigger")["judge"]["spec"]["delivery"]["timeout"]
    timeout = service["spec"]["predictor"]["timeout"]
    assert AppLimits().answer_seconds < timeout < int(patience.removeprefix("PT").removesuffix("S"))


@every_overlay
def test_knative_may_look_up_the_address_of_the_inference_service(overlay: str) -> None:
    (role,) = [
        one for one in of_kind(overlay, "ClusterRole") if "duck.knative.dev/addressable" in one["metadata"]["labels"]
    ]
    assert role["metadata"]["labels"]["duck.knative.dev/addressable"] == "true"
    assert role["rules"] == [
        {
            "apiGroups": ["serving.kserve.io"],
            "resources": ["inferenceservices", "inferenceservices/status"],
            "verbs": ["get", "list", "watch"],
        }
    ]


# ------------------------------------------------------------------------------------------------------------ inference


@every_overlay
def test_the_inference_service_names_our_model_and_a_runtime_that_serves_it(overlay: str) -> None:
    (service,) = of_kind(overlay, "InferenceService")
    predictor = service["spec"]["predictor"]
    runtime = named(overlay, "ServingRuntime")[predictor["model"]["runtime"]]
    assert service["metadata"]["name"] == DEFAULTS.model_name
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    assert predictor["model"]["modelFormat"]["name"] in {
        one["name"] for one in runtime["spec"]["supportedModelFormats"]
    }
    assert predictor["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    # Which version serves is a promotion's to say; a manifest that said it too would undo promotions.
    assert "storageUri" not in predictor["model"]
    assert "canaryTrafficPercent" not in predictor
    minimum = {"minikube": 0, "minikube-seaweedfs": 0, "production": 2}[overlay]
    assert predictor["minReplicas"] == minimum


@every_overlay
def test_the_predictor_takes_its_arguments_and_knative_takes_its_pod(overlay: str) -> None:
    (runtime,) = of_kind(overlay, "ServingRuntime")
    (container,) = runtime["spec"]["containers"]
    text = subprocess.run(
        [sys.executable, "-m", "serving", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(argument.split("=")[0] in text for argument in container["args"])
    assert len(container["ports"]) == 1
    assert all("fieldRef" not in path for path, _ in walk(container))
    assert all(set(volume) <= {"name", "emptyDir", "secret", "configMap"} for volume in runtime["spec"]["volumes"])


def test_kserve_downloads_from_the_store_that_the_settings_name() -> None:
    (secret,) = [one for one in _generated() if one["metadata"]["name"] == "s3-predictor"]
    told = dict(line.split("=", 1) for line in (MANIFESTS / "base/settings.env").read_text().split())
    notes = secret["metadata"]["annotations"]
    scheme, _, host = told["LUNGLINE_S3_ENDPOINT"].partition("://")
    assert notes["serving.kserve.io/s3-endpoint"] == host
    assert notes["serving.kserve.io/s3-usehttps"] == ("1" if scheme == "https" else "0")
    assert notes["serving.kserve.io/s3-region"] == told["LUNGLINE_S3_REGION"]


@every_overlay
def test_a_pipeline_may_promote_our_model_and_change_nothing_else(overlay: str) -> None:
    (role,) = of_kind(overlay, "Role")
    for rule in role["rules"]:
        if {"patch", "update", "get"} & set(rule["verbs"]):
            assert rule["resourceNames"] == [DEFAULTS.model_name]
        assert set(rule["verbs"]) <= {"get", "list", "watch", "create", "patch", "update"}


# ----------------------------------------------------------------------------------------------------------------- pods


@every_overlay
def test_every_container_says_what_it_needs_and_what_it_may_take(overlay: str) -> None:
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
def test_everything_that_runs_on_is_probed(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.spec["containers"] if pod.long else []:
            assert {"readinessProbe", "livenessProbe"} <= set(container), f"{pod.owner}: {container['name']}"


@every_overlay
def test_every_pod_is_fit_for_a_restricted_namespace(overlay: str) -> None:
    labels = named(overlay, "Namespace")[NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(overlay):
        outer = pod.spec.get("securityContext", {})
        assert pod.knative or pod.spec["automountServiceAccountToken"] is False
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
def test_no_pod_may_fill_its_node(overlay: str) -> None:
    for pod in pods(overlay):
        for volume in pod.spec.get("volumes", []):
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], f"{pod.owner}: {volume['name']}"


@every_overlay
def test_what_holds_state_goes_last_and_nothing_else_claims_to(overlay: str) -> None:
    (known,) = named(overlay, "PriorityClass")
    owners = {pod.owner for pod in pods(overlay) if pod.spec.get("priorityClassName") == known}
    store = "Deployment/seaweedfs" if overlay == "minikube-seaweedfs" else "Deployment/object-store"
    assert owners == {store, "StatefulSet/postgres"}
    (kafka,) = of_kind(overlay, "Kafka")
    assert kafka["spec"]["kafka"]["template"]["pod"]["priorityClassName"] == known


@every_overlay
def test_every_disruption_budget_is_about_pods_that_are_there_and_lets_a_node_be_drained(overlay: str) -> None:
    budgets = named(overlay, "PodDisruptionBudget")
    assert ("predictor" in budgets) == (overlay == "production")
    for name, budget in budgets.items():
        assert any(_selects(budget["spec"]["selector"], pod.labels) for pod in pods(overlay)), name
        assert budget["spec"]["maxUnavailable"] == 1


@every_overlay
def test_every_command_of_ours_in_a_pod_is_one_that_the_command_line_takes(overlay: str) -> None:
    ours = [pod for pod in pods(overlay) if pod.owner.startswith("CronJob/")]
    assert {"CronJob/reconcile", "CronJob/replay"} <= {pod.owner for pod in ours}
    for pod in ours:
        assert pod.containers[0]["image"].rpartition("/")[2].startswith("tools"), "its entry point is lungline"
        parse(pod.containers[0]["args"])


@every_overlay
def test_every_image_has_a_tag_that_stays(overlay: str) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            assert re.fullmatch(r"[a-z0-9.-]+(/[a-z0-9._-]+)+:[A-Za-z0-9][\w.-]*\d[\w.-]*", container["image"]), (
                pod.owner
            )
            assert not container["image"].endswith(":latest")


def test_the_pipeline_runs_in_the_image_that_the_settings_name() -> None:
    images = {container["image"] for pod in pods("production") for container in pod.containers}
    assert DEFAULTS.kfp_image in images


def test_seaweedfs_takes_minios_place_and_nobody_else_notices() -> None:
    swapped = text_of("overlays/minikube-seaweedfs")
    assert "minio/" not in swapped
    ours = {(one["kind"], one["metadata"]["name"]): one for one in objects("minikube")}
    theirs = {(one["kind"], one["metadata"]["name"]): one for one in objects("minikube-seaweedfs")}
    changed = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert changed == {
        ("Service", "object-store"), ("ServiceMonitor", "object-store"), ("NetworkPolicy", "to-object-store")
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- network


@every_overlay
def test_every_network_policy_is_about_pods_that_are_there(overlay: str) -> None:
    strimzi = {"strimzi.io/cluster": next(iter(named(overlay, "Kafka")))}
    labels = [pod.labels for pod in pods(overlay)] + [strimzi]
    for name, policy in named(overlay, "NetworkPolicy").items():
        selectors = [value for path, value in walk(policy["spec"]) if path.endswith("podSelector")]
        for selector in selectors:
            assert any(_selects(selector, one) for one in labels), f"{name}: {selector}"


@every_overlay
def test_whoever_holds_credentials_may_reach_what_they_open(overlay: str) -> None:
    egress = {
        name: one for name, one in named(overlay, "NetworkPolicy").items() if "Egress" in one["spec"]["policyTypes"]
    }
    for pod in pods(overlay):
        names = {name for _, name, _ in _secrets_of(pod)}
        needs = {"from-s3-clients"} if any(name.startswith("s3-") for name in names) and not pod.knative else set()
        needs |= {"from-predictor"} if pod.knative else set()
        needs |= {"from-kafka-clients"} if any(name.startswith("kafka-") for name in names) else set()
        needs |= {"from-postgres-clients"} if "postgres" in names and "postgres" not in pod.owner else set()
        for policy in needs:
            assert _selects(egress[policy]["spec"]["podSelector"], pod.labels), f"{pod.owner} needs {policy}"


@every_overlay
def test_nobody_comes_in_from_outside_but_by_the_ingress(overlay: str) -> None:
    for name, policy in named(overlay, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], name
            assert all("ipBlock" not in peer for peer in rule["from"]), name
    events_from = named(overlay, "NetworkPolicy")["to-worklist-events"]["spec"]["ingress"][0]["from"]
    assert events_from == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "knative-eventing"}}}]


@every_overlay
def test_the_page_for_people_takes_no_events_and_the_door_for_events_is_no_page(overlay: str) -> None:
    by_name = {pod.labels["app.kubernetes.io/name"]: pod for pod in pods(overlay) if "worklist" in pod.owner}
    tokens = {
        name: [entry for entry in _env(pod.containers[0]) if entry["name"] == "LUNGLINE_WORKLIST__EVENT_TOKEN"]
        for name, pod in by_name.items()
    }
    assert len(tokens["worklist"]) == 1
    assert tokens["worklist-events"] == []
    backends = {
        path["backend"]["service"]["name"]
        for ingress in of_kind(overlay, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert backends <= {"worklist", "object-store"}


def test_people_reach_the_worklist_by_the_name_that_it_answers_to() -> None:
    (host,) = [
        rule["host"]
        for ingress in of_kind("production", "Ingress")
        for rule in ingress["spec"]["rules"]
        if ingress["metadata"]["name"] == "worklist"
    ]
    (pod,) = [pod for pod in pods("production") if pod.owner == "Deployment/worklist"]
    env = {entry["name"]: entry.get("value", "") for entry in _env(pod.containers[0])}
    assert host in env["LUNGLINE_WORKLIST__HOSTS"].split(",")
    assert env["LUNGLINE_WORKLIST__URI"] == f"https://{host}"


# ----------------------------------------------------------------------------------------------------------- monitoring


@every_overlay
def test_monitors_look_every_15_seconds_at_ports_that_are_there(overlay: str) -> None:
    # Ports of Knative's proxy and of Strimzi's containers, which are theirs to name.
    ports = {"http-usermetric", "tcp-prometheus"}
    ports |= {port["name"] for service in of_kind(overlay, "Service") for port in service["spec"]["ports"]}
    ports |= {
        port["name"]
        for deployment in of_kind(overlay, "Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for monitor in of_kind(overlay, "ServiceMonitor", "PodMonitor"):
        for endpoint in monitor["spec"].get("endpoints", []) + monitor["spec"].get("podMetricsEndpoints", []):
            assert endpoint["interval"] == "15s"
            assert endpoint.get("portNumber") == 8080 or endpoint["port"] in ports


@every_overlay
def test_alerts_and_dashboards_ask_for_metrics_that_the_code_has(overlay: str) -> None:
    source = "\n".join(
        path.read_text()
        for folder in ("serving", "worklist", "lungline", "eventing", "laptop")
        for path in (ROOT / folder).rglob("*.py")
    )
    asked = text_of(f"overlays/{overlay}")
    names = set(re.findall(r"\blungline_[a-z_]+(?=[\[{)])", asked))
    assert len(names) > 30
    for name in names:
        # A client adds these endings itself.
        assert any(f'"{re.sub(ending, "", name)}"' in source for ending in ("$", "_(bucket|count|sum)$", "_total$")), (
            name
        )
    groups = set(re.findall(r'consumergroup=\\?"([a-z-]+)', asked))
    assert groups == {f"knative-trigger-{NAMESPACE}-{next(iter(t for t in named(overlay, 'Trigger') if t == 'judge'))}"}


@every_overlay
def test_every_alert_says_what_to_do(overlay: str) -> None:
    for rule in of_kind(overlay, "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            for alert in group["rules"]:
                assert {"summary", "runbook"} <= set(alert["annotations"]), alert["alert"]
                assert alert["labels"]["severity"] in {"warning", "critical"}


# ----------------------------------------------------------------------------------------------------------- argo cd


def test_argo_cd_applies_overlays_that_exist_and_leaves_promotions_alone() -> None:
    found = list(yaml.safe_load_all(text_of("argocd")))
    (project,) = [one for one in found if one["kind"] == "AppProject"]
    reachable = {one["namespace"] for one in project["spec"]["destinations"]}
    applications = [one for one in found if one["kind"] == "Application"]
    assert {one["spec"]["project"] for one in applications} == {project["metadata"]["name"]}
    for one in applications:
        overlay = Path(one["spec"]["source"]["path"])
        assert (ROOT / overlay / "kustomization.yaml").exists()
        used = {made["metadata"]["namespace"] for made in objects(overlay.name) if "namespace" in made["metadata"]}
        assert used <= reachable
        kinds = {made["kind"] for made in objects(overlay.name) if "namespace" not in made["metadata"]}
        assert kinds <= {allowed["kind"] for allowed in project["spec"]["clusterResourceWhitelist"]}
        (ignored,) = one["spec"]["ignoreDifferences"]
        assert "/spec/predictor/model/storageUri" in ignored["jsonPointers"]


# ----------------------------------------------------------------------------------------------------------- secrets


def test_secrets_are_new_each_time_and_never_shown_on_a_terminal() -> None:
    first, second = _generated(), generated_secrets()
    values = [
        {name: one["stringData"] for one in made for name in [one["metadata"]["name"]]} for made in (first, second)
    ]
    same = {
        f"{name} {key}"
        for name, held in values[0].items()
        for key, value in held.items()
        if values[1][name][key] == value and key not in {"user", "protocol", "sasl.mechanism"}
    }
    assert same == set()
    script = (
        f"import pty, sys; sys.exit(pty.spawn([{sys.executable!r}, {str(MANIFESTS / 'generate_secrets.py')!r}]) >> 8)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "stringData" not in done.stdout


def test_kafkas_authority_can_vouch_for_a_broker() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    held = {
        key: value for one in _generated() for key, value in one["stringData"].items() if key in {"ca.crt", "ca.key"}
    }
    certificate = x509.load_pem_x509_certificate(held["ca.crt"].encode())
    key = serialization.load_pem_private_key(held["ca.key"].encode(), password=None)
    assert key.public_key() == certificate.public_key()
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(certificate)


def test_the_setup_of_the_store_knows_every_user_and_fills_in_every_name() -> None:
    setup = (MANIFESTS / "base/storage/setup.sh").read_text()
    subprocess.run(["sh", "-n", MANIFESTS / "base/storage/setup.sh"], check=True)
    users = {path.stem for path in (MANIFESTS / "base/storage/policies").glob("*.json")}
    (line,) = re.findall(r"for user in ([a-z ]+);", setup)
    assert set(line.split()) == users == {name.removeprefix("s3-") for _, name in secrets() if name.startswith("s3-")}


def test_policies_speak_of_our_buckets_and_our_model() -> None:
    told = dict(line.split("=", 1) for line in (MANIFESTS / "base/settings.env").read_text().split())
    ours = {value for name, value in told.items() if name.endswith("_BUCKET")}
    for path in (MANIFESTS / "base/storage/policies").glob("*.json"):
        for _, value in walk(json.loads(path.read_text())):
            if isinstance(value, str) and value.startswith("arn:aws:s3:::"):
                bucket, _, key = value.removeprefix("arn:aws:s3:::").partition("/")
                assert bucket in ours, f"{path.name}: {value}"
                assert bucket != DEFAULTS.models_bucket or key in {"", f"{DEFAULTS.model_name}/*"}


def test_the_setup_runs_twice_and_shows_no_secret_to_other_processes(tmp_path: Path) -> None:
    """With an `mc` that writes down its arguments, and answers as the real one does when all is done already."""
    calls, setup = tmp_path / "calls", MANIFESTS / "base/storage"
    (tmp_path / "mc").write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n'
        'case "$*" in *"user add"*) read -r a; read -r s; test "$s" = "hidden-$a" || exit 9;; '
        '*attach*) echo "mc: The specified policy change is already in effect" >&2; exit 1;; esac\n'
    )
    (tmp_path / "mc").chmod(0o755)
    users = {path.stem for path in (setup / "policies").glob("*.json")}
    for user in users:
        (tmp_path / user).mkdir()
        (tmp_path / user / "access").write_text(user)
        (tmp_path / user / "secret").write_text(f"hidden-{user}")
    told = dict(line.split("=", 1) for line in (setup.parent / "settings.env").read_text().split())
    env = {"PATH": f"{tmp_path}", "ROOT_ACCESS": "root", "ROOT_SECRET": "hidden-root"}  # mc and the shell, nothing else
    env |= told | {"USERS": str(tmp_path), "SETUP": str(setup / "policies")}
    for _ in range(2):
        subprocess.run(["/bin/sh", setup / "setup.sh"], env=env, check=True, timeout=60, capture_output=True)
    said = calls.read_text()
    assert "hidden" not in said
    assert all(f"admin policy create store lungline-{user} {setup}/policies/{user}.json" in said for user in users)
    assert (
        f"event add --ignore-existing store/{DEFAULTS.uploads_bucket} arn:minio:sqs::uploads:kafka --event put" in said
    )
    for name, value in told.items():
        if name.endswith("_BUCKET"):
            assert f"mb --ignore-existing store/{value}" in said
            assert f"anonymous set none store/{value}" in said


# -------------------------------------------------------------------------------------------------------------- reading


def _env(container: Object) -> list[Object]:
    return container.get("env", [])


def _matches(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    rules = selector.get("matchExpressions", [])
    return _matches(selector.get("matchLabels", {}), labels) and all(labels.get(r["key"]) in r["values"] for r in rules)


def _rights(user: Object) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for acl in user["spec"]["authorization"]["acls"]:
        resource = acl["resource"]
        star = "*" if resource.get("patternType") == "prefix" else ""
        found.setdefault(f"{resource['type']} {resource.get('name', '')}{star}".strip(), set()).update(
            acl["operations"]
        )
    return found


def _secrets_of(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    for path, value in walk(pod.spec):
        last = path.rpartition(".")[2]
        if last == "secretKeyRef":
            yield pod.namespace, value["name"], value["key"]
        elif last == "secret" and isinstance(value, dict):
            name = str(value.get("secretName", value.get("name")))
            yield from ((pod.namespace, name, item["key"]) for item in value["items"])


def _secret_references(overlay: str) -> Iterator[tuple[str, str, str | None]]:
    for pod in pods(overlay):
        yield from _secrets_of(pod)
    for one in objects(overlay):
        kind, where = one["kind"], one["metadata"].get("namespace", "")
        if kind in {"KafkaSource", "KafkaUser"}:
            yield from ((where, v["name"], v["key"]) for path, v in walk(one["spec"]) if path.endswith("secretKeyRef"))
        elif kind == "KafkaSink":
            for key in ("protocol", "sasl.mechanism", "user", "password", "ca.crt"):
                yield where, one["spec"]["auth"]["secret"]["ref"]["name"], key
        elif kind == "ConfigMap" and "auth.secret.ref.name" in one["data"]:
            yield where, one["data"]["auth.secret.ref.name"], "password"
        elif kind == "ServiceAccount":
            yield from ((where, secret["name"], None) for secret in one.get("secrets", []))
        elif kind == "Ingress":
            yield from ((where, tls["secretName"], None) for tls in one["spec"]["tls"])
        elif kind == "Kafka" and not one["spec"]["clusterCa"]["generateCertificateAuthority"]:
            name = one["metadata"]["name"]
            yield where, f"{name}-cluster-ca-cert", "ca.crt"
            yield where, f"{name}-cluster-ca", "ca.key"
