"""The component that keeps a cluster's log lines for more than six months."""

import re
from typing import Any

import pytest
import yaml

from lungline.retention.rules import LEAST_RESULT_DAYS
from tests.support.manifests_of import MANIFESTS, Object, named, objects

PODS = {"logs", "log-collector"}


@pytest.fixture(scope="module")
def added() -> list[Object]:
    """What the component adds to production, which has it by default."""
    folder = MANIFESTS / "components/logs"
    declared = [each for path in folder.glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    names = {(each["kind"], each["metadata"]["name"]) for each in declared if "metadata" in each}
    return [
        manifest
        for manifest in objects("production")
        if (manifest["kind"], manifest["metadata"]["name"]) in names
        or (manifest["kind"] == "ConfigMap" and re.fullmatch(r"logs(-\w+)?", manifest["metadata"]["name"]))
    ]


def of(added: list[Object], kind: str) -> dict[str, Any]:
    return {manifest["metadata"]["name"]: manifest for manifest in added if manifest["kind"] == kind}


def test_lines_are_kept_for_more_than_six_months(added: list[Object]) -> None:
    (store,) = of(added, "Deployment")["logs"]["spec"]["template"]["spec"]["containers"]
    options = dict(argument.removeprefix("-").split("=") for argument in store["args"])
    assert int(options["retentionPeriod"].removesuffix("d")) >= LEAST_RESULT_DAYS
    assert "delete.enable" not in options, "lines could be deleted over the network"
    (mount,) = store["volumeMounts"]
    assert options["storageDataPath"] == mount["mountPath"]
    assert of(added, "PersistentVolumeClaim").keys() == PODS


def test_the_collector_sends_to_the_store(added: list[Object]) -> None:
    (files,) = (manifest["data"] for manifest in of(added, "ConfigMap").values())
    (host, port) = re.findall(r'url = "http://([a-z0-9.]+):(\d+)/insert/loki/api/v1/push\?', files["config.alloy"])[0]
    (service,) = of(added, "Service").values()
    assert host == f"{service['metadata']['name']}.lungline.svc.cluster.local"
    assert [int(port)] == [each["port"] for each in service["spec"]["ports"]]
    (store,) = of(added, "Deployment")["logs"]["spec"]["template"]["spec"]["containers"]
    assert [int(port)] == [each["containerPort"] for each in store["ports"]]


def test_the_collector_may_read_our_logs_and_nothing_else(added: list[Object]) -> None:
    (role,) = of(added, "Role").values()
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "watch"]}]
    assert not of(added, "ClusterRole")
    for name, deployment in of(added, "Deployment").items():
        spec = deployment["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is (name == "log-collector")
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all("hostPath" not in volume for volume in spec["volumes"])
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"readinessProbe", "livenessProbe", "resources"} <= set(container)


def test_only_the_collector_and_monitoring_reach_the_lines(added: list[Object]) -> None:
    policies = of(added, "NetworkPolicy")
    assert set(of(added, "Deployment")) == PODS
    (rule,) = policies["to-logs"]["spec"]["ingress"]
    assert rule["from"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "log-collector"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]
    assert "default-deny" in named("production", "NetworkPolicy")
