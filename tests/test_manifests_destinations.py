"""The component that lets a cluster's worklist deliver results: its file, its secret, its way out."""

from pathlib import Path

import pytest

from lungline.settings import variable
from tests.support.manifests_of import Object, objects, with_component
from tests.support.strict_validator import assert_valid

APP = "app.kubernetes.io/name"
WORKLISTS = {"worklist", "worklist-events"}


@pytest.fixture(params=["minikube", "production"])
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> list[Object]:
    """What the component adds to an overlay, and what it changes there."""
    rendered = with_component(tmp_path, request.param, "destinations")
    return [manifest for manifest in rendered if manifest not in objects(request.param)]


def test_both_worklists_read_the_file_of_the_secret(changed: list[Object]) -> None:
    deployments = [manifest for manifest in changed if manifest["kind"] == "Deployment"]
    assert {manifest["metadata"]["name"] for manifest in deployments} == WORKLISTS
    for manifest in deployments:
        pod = manifest["spec"]["template"]["spec"]
        container = pod["containers"][0]
        (entry,) = [each for each in container["env"] if each["name"] == variable("worklist.destinations")]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "destinations"]
        assert entry["value"] == f"{mount['mountPath']}/destinations.toml"
        assert mount["readOnly"]
        assert len({each["mountPath"] for each in container["volumeMounts"]}) == len(container["volumeMounts"])
        (volume,) = [each for each in pod["volumes"] if each["name"] == "destinations"]
        assert volume["secret"]["secretName"] == "worklist-destinations"


def test_only_worklists_may_reach_destinations(changed: list[Object]) -> None:
    (policy,) = [manifest for manifest in changed if manifest["kind"] == "NetworkPolicy"]
    assert set(policy["spec"]["podSelector"]["matchExpressions"][0]["values"]) == WORKLISTS
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    assert {each["port"] for each in rule["ports"]} == {104, 443, 2575, 2762}
    assert len(changed) == 3


def test_the_component_is_valid(changed: list[Object]) -> None:
    assert_valid(changed)
