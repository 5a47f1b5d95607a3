"""The component that keeps a cluster's log lines for more than six months."""

import re
from typing import Any

import pytest
import yaml

from lungline.retention.rules import LEAST_RESULT_DAYS
from tests.support.manifests_of import Object, named, objects, with_component
from tests.support.strict_validator import assert_valid

PODS = {"logs", "log-collector"}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    rendered = with_component(tmp_path_factory.mktemp("logs"), "production", "logs")
    kept = objects("production")
    assert all(manifest in rendered for manifest in kept), "it changes nothing of ours"
    return [manifest for manifest in rendered if manifest not in kept]


def of(added: list[Object], kind: str) -> dict[str, Any]:
    return {manifest["metadata"]["name"]: manifest for manifest in added if manifest["kind"] == kind}


def test_lines_are_kept_for_more_than_six_months(added: list[Object]) -> None:
    (files,) = (manifest["data"] for manifest in of(added, "ConfigMap").values())
    settings = yaml.safe_load(files["loki.yaml"])
    assert settings["compactor"]["retention_enabled"] is True
    hours = int(settings["limits_config"]["retention_period"].removesuffix("h"))
    assert hours >= LEAST_RESULT_DAYS * 24
    (address,) = re.findall(r'url = "http://([a-z0-9.]+):3100/', files["config.alloy"])
    assert address == "logs.lungline.svc.cluster.local"
    assert "logs" in of(added, "Service")


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


def test_the_component_passes_the_strict_validator(added: list[Object]) -> None:
    assert_valid(added)
