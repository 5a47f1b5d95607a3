"""docs/cluster.md says what is true of the manifests."""

import re
from typing import Any

import pytest
import yaml

from lungline.settings import setting_names, variable
from tests.support.command_lines import lungline_commands, options_of, parse
from tests.support.manifests_of import (
    EXTERNAL_SECRETS,
    MANIFESTS,
    ROOT,
    SHARED,
    generated_secrets,
    named,
    of_kind,
    pods,
)
from tests.support.strict_validator import assert_valid

TEXT = (ROOT / "docs/cluster.md").read_text()


def given_to(command: str) -> str:
    """What the document gives to a command on its standard input."""
    (body,) = re.findall(rf"^{re.escape(command)}[^\n]*<<'END'\n(.*?)^END$", TEXT, flags=re.MULTILINE | re.DOTALL)
    return body


def position(text: str) -> int:
    """Where a text begins; it has to be there once."""
    assert TEXT.count(text) == 1, text
    return TEXT.index(text)


def test_every_secret_is_listed_with_its_keys() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for secret in generated_secrets():
        name = secret["metadata"]["name"]
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        if name not in {"s3-predictor", "s3-pipeline"}:  # "the same" as the row above
            assert all(f"`{key}`" in row for key in secret["stringData"]), row
    for name, key in EXTERNAL_SECRETS:
        assert key is None or [row for row in rows if f"`{name}`" in row and f"`{key}`" in row]


def test_every_path_that_it_names_exists() -> None:
    named = set(re.findall(r"(manifests/[\w./-]+\w)", TEXT)) | set(re.findall(r"-k (manifests/[\w/-]+)", TEXT))
    ours = {path for path in named if not path.startswith("manifests/kustomize")}
    assert len(ours) > 5
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_the_images_that_it_builds_are_those_that_minikube_runs() -> None:
    built = set(re.findall(r"docker build --target \w+ -t (\S+) \.", TEXT))
    used = {container["image"] for pod in pods("minikube-seaweedfs") for container in pod.containers}
    ours = {image for image in used if "lungline/" in image}
    assert built == ours
    targets = set(re.findall(r"docker build --target (\w+)", TEXT))
    assert targets == {"predictor", "worklist", "pipeline", "tools"}


def test_every_command_is_one_that_the_program_takes() -> None:
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
    lines = lungline_commands(blocks)
    assert len(lines) > 6
    for arguments in lines:
        parse(arguments)
    # Within a sentence a command stands without what it needs: its name and its options must be there.
    for text in re.findall(r"`lungline ([^`]+)`", TEXT):
        options = {word for word in text.split() if word.startswith("--")}
        names = [word for word in text.split() if re.fullmatch(r"[a-z]+", word)]
        valid = options_of(names)
        assert options <= valid, f"lungline {text}"


def test_every_setting_that_it_names_is_one() -> None:
    valid = {variable(name) for name in setting_names()}
    named = set(re.findall(r"\bLUNGLINE_[A-Z0-9_]+", TEXT))
    assert named
    assert named <= valid


@pytest.mark.parametrize(("package", "layer"), [("kfp", "pipeline")])
def test_the_server_is_of_the_version_that_the_client_is(package: str, layer: str) -> None:
    locked = re.search(rf"^{package}==(\S+)", (ROOT / f"requirements/{layer}.txt").read_text(), flags=re.MULTILINE)
    assert locked
    assert f"export PIPELINE_VERSION={locked.group(1)}\n" in TEXT


# ------------------------------------------------------------------------------------------- what upstream demands


def test_kserves_initializer_gets_a_context_that_pod_security_accepts() -> None:
    """Its own comes from KServe's installation: the chart's, which lacks seccomp, or nothing at all."""
    restricted: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    patch = yaml.safe_load(given_to("kubectl patch clusterstoragecontainer default --type merge"))
    assert patch["spec"]["container"]["securityContext"] == restricted
    # The chart has the others (charts/kserve-resources/values.yaml of v0.20.0).
    assert "--set kserve.storage.containerSecurityContext.seccompProfile.type=RuntimeDefault\n" in TEXT
    shipped = SHARED / "k8s/upstream/kserve/config/storagecontainers/default.yaml"
    if shipped.exists():
        container = yaml.safe_load(shipped.read_text())["spec"]["container"]
        assert set(patch["spec"]["container"]) <= {"securityContext"}, "a merge leaves the rest as it is"
        assert "securityContext" not in container, "upstream now has one: is the patch still needed?"


def test_no_switch_of_knatives_changes_the_pods_of_others() -> None:
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
    assert "config-features" not in blocks


def test_kubernetes_is_as_new_as_knative_demands() -> None:
    """Knative 1.23's controllers exit at once on an older one (DefaultKubernetesMinVersion of knative.dev/pkg)."""
    (row,) = re.findall(r"^\| Kubernetes \| (\S+) or newer", TEXT, flags=re.MULTILINE)
    assert row == "1.34"
    assert f"--kubernetes-version v{row}." in TEXT
    labels = named("production", "Namespace")["lungline"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce-version"] == f"v{row}"


def test_parts_of_knative_are_of_one_release() -> None:
    """The Kafka broker 1.23 is built against Eventing 1.23."""
    assert set(re.findall(r"download/knative-v(\d+\.\d+)", TEXT)) == {"1.23"}
    assert set(re.findall(r"^\| Knative [^|]+\| ([\d.]+) \|", TEXT, flags=re.MULTILINE)) == {"1.23.0"}


def test_images_are_built_where_the_runtime_of_minikube_finds_them() -> None:
    """`docker-env` needs Docker, and newer versions of minikube choose containerd."""
    (start,) = re.findall(r"^minikube start .*", TEXT, flags=re.MULTILINE)
    assert "--container-runtime docker " in start
    assert (
        position("minikube start ")
        < position('eval "$(minikube docker-env)"')
        < position("docker build --target predictor")
    )


def test_what_has_finalizers_is_deleted_before_its_operators() -> None:
    first = position("kubectl -n lungline delete triggers,kafkasources,brokers,kafkasinks --all")
    assert first < position("kubectl -n lungline delete kafkatopics,kafkausers --all") < position("kubectl delete -k")


def test_another_users_account_may_run_pipelines_and_promote() -> None:
    """In the namespace of a user there is no role pipeline-runner, which Kubeflow has in its own only."""
    account = "--serviceaccount radiology:lungline-pipeline"
    blocks = re.sub(r" \\\n +", " ", TEXT)
    assert f"kubectl -n radiology create rolebinding lungline-pipeline --clusterrole kubeflow-edit {account}" in blocks
    role = named("production", "RoleBinding")["promoter"]["roleRef"]["name"]
    assert f"kubectl -n lungline create rolebinding promoter-radiology --role {role} {account}" in blocks
    (policy,) = [
        manifest for manifest in of_kind("production", "NetworkPolicy") if manifest["metadata"]["name"] == "to-mlflow"
    ]
    (label,) = [
        f"{key}={value}"
        for peer in policy["spec"]["ingress"][0]["from"]
        for key, value in peer.get("namespaceSelector", {}).get("matchLabels", {}).items()
        if not key.startswith("kubernetes.io/")
    ]
    assert f"kubectl label namespace radiology {label}\n" in TEXT


def test_a_house_with_its_own_registry_finds_every_image() -> None:
    names = TEXT[position("**Names.**") :]
    assert "LUNGLINE_KFP_IMAGE" in names[: names.index("**The way in**")]
    upgrades = TEXT[position("**Upgrades.**") :]
    assert "LUNGLINE_KFP_IMAGE" in upgrades[: upgrades.index("**Promotions.**")]


def test_the_issuer_answers_challenges_through_our_gateway() -> None:
    gateway_class, issuer = yaml.safe_load_all(given_to("kubectl apply -f -"))
    names = yaml.safe_load((MANIFESTS / "overlays/production/names.yaml").read_text())["data"]
    assert gateway_class["metadata"]["name"] == names["gateway-class"]
    assert issuer["metadata"]["name"] == names["certificate-issuer"]
    assert f"--namespace {names['gateway-namespace']} --create-namespace" in TEXT
    (solver,) = issuer["spec"]["acme"]["solvers"]
    (parent,) = solver["http01"]["gatewayHTTPRoute"]["parentRefs"]
    (gateway,) = of_kind("production", "Gateway")
    assert (parent["name"], parent["namespace"]) == (gateway["metadata"]["name"], gateway["metadata"]["namespace"])
    (listener,) = [item for item in gateway["spec"]["listeners"] if item["name"] == parent["sectionName"]]
    assert (listener["protocol"], listener["port"]) == ("HTTP", 80)
    # Without this, cert-manager ignores the gateway.
    assert "--set config.enableGatewayAPI=true" in TEXT


def test_the_issuer_is_one_that_cert_manager_takes() -> None:
    assert_valid([list(yaml.safe_load_all(given_to("kubectl apply -f -")))[1]])


def test_nothing_leads_through_a_retired_ingress() -> None:
    rendered = "".join(path.read_text() for path in MANIFESTS.rglob("*.yaml"))
    assert "nginx" not in rendered


def test_the_trigger_that_waits_is_not_to_be_deleted() -> None:
    """Knative deletes the position of its group with it, and a new trigger begins with the newest event."""
    lost = TEXT[position("**Lost events and dead letters.**") :]
    assert "Do not delete the trigger `judge`" in lost[: lost.index("\n\n")]
    assert "judge" in named("production", "Trigger")
