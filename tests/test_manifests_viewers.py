"""The component that opens a cluster's worklist to DICOM viewers."""

from pathlib import Path

import pytest

from lungline.settings import variable
from tests.support.manifests_of import env_of, objects, pods, secret_keys, with_component

TOKEN = variable("worklist.viewer_token")


@pytest.mark.parametrize("overlay", ["minikube", "production"])
def test_only_the_page_gets_the_token_and_only_by_the_component(overlay: str, tmp_path: Path) -> None:
    for pod in pods(overlay):
        assert all(entry["name"] != TOKEN for container in pod.containers for entry in env_of(container))
    rendered = with_component(tmp_path, overlay, "viewers")
    (changed,) = [manifest for manifest in rendered if manifest not in objects(overlay)]
    assert (changed["kind"], changed["metadata"]["name"]) == ("Deployment", "worklist")
    env = changed["spec"]["template"]["spec"]["containers"][0]["env"]
    (entry,) = [each for each in env if each["name"] == TOKEN]
    reference = entry["valueFrom"]["secretKeyRef"]
    assert reference["key"] in secret_keys()["lungline", reference["name"]]
