"""The component that lets a cluster's gateway report on storage commitment to the addresses of senders."""

from pathlib import Path

import pytest

from gateway.commitment_reports import addresses
from lungline.settings import variable
from lungline.settings_blocks import GatewaySettings
from tests.support.manifests_of import Object, objects, with_component
from tests.support.strict_validator import assert_valid


@pytest.fixture(params=["minikube", "production"])
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> list[Object]:
    """What the component adds to an overlay, and what it changes there."""
    rendered = with_component(tmp_path, request.param, "commitment")
    return [manifest for manifest in rendered if manifest not in objects(request.param)]


def test_gateway_may_reach_the_senders_that_its_settings_name(changed: list[Object]) -> None:
    """It reads the setting, and a new one starts new pods."""
    kinds = {manifest["kind"]: manifest for manifest in changed}
    assert set(kinds) == {"ConfigMap", "Deployment", "NetworkPolicy"}
    settings = kinds["ConfigMap"]["data"]
    assert addresses(GatewaySettings(commitment=settings[variable("gateway.commitment")])) == {
        "DX1": ("192.0.2.10", 104)
    }
    assert settings[variable("gateway.ae_title")] == "LUNGLINE"
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert kinds["Deployment"]["metadata"]["name"] == "dicom-gateway"
    read = [each["configMapRef"]["name"] for each in pod["containers"][0]["envFrom"]]
    assert kinds["ConfigMap"]["metadata"]["name"] in read
    (rule,) = kinds["NetworkPolicy"]["spec"]["egress"]
    assert {each["port"] for each in rule["ports"]} == {104, 2762}
    assert kinds["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "dicom-gateway"}}


def test_the_component_is_valid(changed: list[Object]) -> None:
    assert_valid(changed)
