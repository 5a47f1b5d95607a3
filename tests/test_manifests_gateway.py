"""The DICOM gateway of a cluster: its rights, its way in, and the room that it may use."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from lungline.home import Home
from lungline.service_state import write_state
from lungline.settings import Settings, variable
from tests.support.manifests_of import (
    MANIFESTS,
    ROOT,
    Object,
    Pod,
    env_of,
    every_overlay,
    named,
    of_kind,
    pods,
    secret_references_of,
    selects,
    text_of,
)
from tests.support.strict_validator import assert_valid

NAME, DICOM, STOW = "dicom-gateway", 11112, 8104
UNITS = {"Mi": 2**20, "Gi": 2**30}


def gateway(overlay: str) -> Pod:
    (pod,) = [pod for pod in pods(overlay) if pod.owner == f"Deployment/{NAME}"]
    return pod


def sources(overlay: str, port: int) -> list[Object]:
    """Who may connect to a port of the gateway."""
    return [
        peer
        for policy in of_kind(overlay, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], gateway(overlay).labels)
        for rule in policy["spec"].get("ingress", [])
        if {"port": port} in rule["ports"]
        for peer in rule["from"]
    ]


@every_overlay
def test_its_command_is_one_that_the_program_takes(overlay: str) -> None:
    (container,) = gateway(overlay).containers
    command = [sys.executable, *container["command"][1:], "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(argument.split("=")[0] in text for argument in container["args"])
    assert {f"--dicom_port={DICOM}", f"--web_port={STOW}"} <= set(container["args"])
    image = re.search(r"lungline/(\w+)", container["image"])
    assert image
    assert "\npynetdicom==" in (ROOT / f"requirements/{image.group(1)}.txt").read_text()


@every_overlay
def test_both_ways_in_have_their_port_and_stow_its_token(overlay: str) -> None:
    """A proxy that ends TLS would also end the check of the senders' certificates: no route leads here."""
    (container,) = gateway(overlay).containers
    listens = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = named(overlay, "Service")[NAME]["spec"]
    assert [listens[port["targetPort"]] for port in service["ports"]] == [DICOM, STOW]
    (token,) = [entry for entry in env_of(container) if entry["name"] == variable("gateway.token")]
    assert token["valueFrom"] == {"secretKeyRef": {"name": NAME, "key": "token"}}
    routed = [rule for route in of_kind(overlay, "HTTPRoute") for rule in route["spec"]["rules"]]
    assert NAME not in str([rule.get("backendRefs") for rule in routed])


@every_overlay
def test_its_liveness_is_the_age_of_its_state_file(overlay: str, tmp_path: Path) -> None:
    """The very command of the probe: a fresh state passes, an old one does not."""
    (container,) = gateway(overlay).containers
    (home,) = [entry["value"] for entry in env_of(container) if entry["name"] == "LUNGLINE_HOME"]
    python, *options, program = container["livenessProbe"]["exec"]["command"]
    assert python == "python"
    assert home in program
    made = Home.make(tmp_path)
    write_state(made, "gateway", "ready")
    command = [sys.executable, *options, program.replace(home, str(tmp_path))]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    (file,) = (tmp_path / "run").iterdir()
    os.utime(file, (1, 1))
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode != 0


@every_overlay
def test_it_has_the_rights_of_a_scanner_and_reaches_only_the_store(overlay: str) -> None:
    pod = gateway(overlay)
    assert {name for _, name, _ in secret_references_of(pod)} <= {"s3-scanner", NAME, "dicom-gateway-tls"}
    reached = {
        name
        for name, policy in named(overlay, "NetworkPolicy").items()
        if "Egress" in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
    }
    assert reached == {"default-deny", "names", "from-s3-clients"}


@every_overlay
def test_what_it_receives_fits_into_its_volume(overlay: str) -> None:
    (home,) = [volume["emptyDir"] for volume in gateway(overlay).spec["volumes"] if volume["name"] == "home"]
    size = int(home["sizeLimit"][:-2]) * UNITS[home["sizeLimit"][-2:]]
    assert size >= Settings().gateway.spool_bytes + 2**28, "a pod over the limit of a volume is evicted"


@every_overlay
def test_a_changed_list_of_senders_starts_new_pods(overlay: str) -> None:
    """Settings are read at the start: the config map has another name when its content changes."""
    (container,) = gateway(overlay).containers
    names = [source["configMapRef"]["name"] for source in container["envFrom"]]
    (own,) = [name for name in names if name != "settings"]
    assert re.fullmatch(rf"{NAME}-[a-z0-9]{{10}}", own)
    assert "LUNGLINE_GATEWAY__SENDERS" in named(overlay, "ConfigMap")[own]["data"]


def test_modalities_come_in_from_their_network_only() -> None:
    network = yaml.safe_load((MANIFESTS / "overlays/production/names.yaml").read_text())["data"]["modality-network"]
    assert sources("production", DICOM) == sources("production", STOW) == [{"ipBlock": {"cidr": network}}]
    service = named("production", "Service")[NAME]["spec"]
    assert service["type"] == "LoadBalancer"
    assert service["loadBalancerSourceRanges"] == [network]
    assert service["externalTrafficPolicy"] == "Local", "policies must see the sender's own address"
    assert [port["port"] for port in service["ports"]] == [2762, 443], "DICOM over TLS, and HTTPS"
    assert "MODALITY-" not in text_of("overlays/production")
    assert sources("minikube", DICOM) == sources("minikube", STOW) == []


def test_both_sides_have_certificates_in_production() -> None:
    pod = gateway("production")
    (container,) = pod.containers
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    (secret,) = [volume["secret"] for volume in pod.spec["volumes"] if volume["name"] == "tls"]
    files = {f"{mount['mountPath']}/{item['path']}" for item in secret["items"]}
    values = {entry["name"]: entry.get("value") for entry in env_of(container)}
    named_files = {values[f"LUNGLINE_GATEWAY__TLS_{part}"] for part in ("CERTIFICATE", "KEY", "CA")}
    assert named_files == files
    assert len(files) == 3
    assert "subPath" not in mount, "a renewed certificate would not arrive"


def test_the_certificates_of_the_document_are_ones_that_cert_manager_takes() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    (body,) = re.findall(r"^kubectl -n lungline apply -f - <<'END'\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    certificates: list[Any] = list(yaml.safe_load_all(body))
    (secret,) = [volume["secret"] for volume in gateway("production").spec["volumes"] if volume["name"] == "tls"]
    assert secret["secretName"] in {certificate["spec"]["secretName"] for certificate in certificates}
    assert_valid(certificates)


def test_the_document_says_where_networks_and_senders_stand() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    for place in ("manifests/base/gateway/dicom-gateway.env", "names.yaml"):
        assert place in text[text.index("**DICOM.**") :]
        assert Path(ROOT / place).exists() or (MANIFESTS / "overlays/production" / place).exists()
