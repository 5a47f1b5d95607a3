"""Another task on a cluster: the component that `lungline task manifests` writes, beside the base."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from lungline.deployment.kserve import ClusterDeployment
from lungline.deployment.task_manifests import component_of, trigger_of
from lungline.errors import TaskError
from lungline.events import handed_on, uploads
from lungline.results import events
from lungline.task.folder import TaskFolder
from lungline.task.reading import load_task
from lungline.task.writing import begin
from tests.support.knative_broker import subscriber, takers
from tests.support.kubernetes_api import api_of, running_cluster
from tests.support.manifests_of import MANIFESTS, Object, named, objects, selects, text_of
from tests.support.strict_validator import VALIDATOR

KIND, RIB = "pneumonia-kind", "rib-fracture"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The overlay minikube with the components of two further tasks: one of ours, and a site's own file."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "rib-fracture.toml").write_text(begin(RIB, "binary"))
    for spec in (KIND, str(folder / "rib-fracture.toml")):
        name = load_task(spec).name
        done = CliRunner().invoke(app, ["task", "manifests", spec, "-o", str(folder / name)])
        assert done.exit_code == 0, done.output
        assert f"Wrote {folder / name}; next: add it to `components` of your overlay" in done.output
    overlay = os.path.relpath(MANIFESTS / "overlays" / "minikube", folder)
    lines = ["resources:", f"  - {overlay}", "components:", f"  - {KIND}", f"  - {RIB}"]
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    return list(yaml.load_all(text_of(str(folder)), Loader=yaml.CSafeLoader))


def kind_of(rendered: list[Object], kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in rendered if item["kind"] == kind}


def by_place(rendered: Sequence[Object]) -> dict[tuple[str, str | None, str], Object]:
    places = ((item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in rendered)
    return dict(zip(places, rendered, strict=True))


def test_a_task_adds_inference_service_trigger_file_and_right(both: list[Object]) -> None:
    """And changes nothing else of the overlay."""
    before, after = by_place(objects("minikube")), by_place(both)
    assert after.keys() - before.keys() == {
        (kind, "lungline", name)
        for task in (KIND, RIB)
        for kind, name in (("InferenceService", task), ("Trigger", f"judge-{task}"))
    }
    assert {key for key in before if before[key] != after[key]} == {
        ("ConfigMap", "lungline", "tasks"), ("Role", "lungline", "promoter")
    }  # fmt: skip


@pytest.mark.parametrize("task", [KIND, RIB])
def test_its_inference_service_differs_from_ours_by_name(both: list[Object], task: str) -> None:
    (ours,) = yaml.safe_load_all((MANIFESTS / "base/inference/inference_service.yaml").read_text())
    services = kind_of(both, "InferenceService")
    assert services[task]["spec"] == ours["spec"]
    assert services[task]["metadata"]["annotations"] == ours["metadata"]["annotations"]
    assert services[task]["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"


def test_every_event_goes_to_one_inference_service(both: list[Object]) -> None:
    """Those of the store to the default task's, those that are handed on to that of their task, and no reply back."""
    triggers = kind_of(both, "Trigger").values()

    def ways(**attributes: str) -> list[tuple[str, str]]:
        return [subscriber(trigger) for trigger in takers(triggers, attributes)]

    assert ways(type=uploads.UPLOAD_TYPE) == [("pneumonia", "/v1/models/pneumonia:predict")]
    assert ways(type=uploads.UPLOAD_TYPE, task=RIB) == [("pneumonia", "/v1/models/pneumonia:predict")]
    for task in (KIND, RIB):
        assert ways(type=handed_on.HANDED_ON_TYPE, task=task) == [(task, f"/v1/models/{task}:predict")]
    assert ways(type=handed_on.HANDED_ON_TYPE, task="fracture") == []
    assert {name for name, _ in ways(type=events.RESULT_TYPE)} == {"worklist-events", "results"}


def test_its_uploads_are_delivered_as_patiently_as_ours() -> None:
    ours = named("minikube", "Trigger")["judge"]
    its = trigger_of(RIB)
    assert its["spec"]["delivery"] == ours["spec"]["delivery"]
    assert its["spec"]["broker"] == ours["spec"]["broker"]
    assert its["metadata"]["annotations"] == ours["metadata"]["annotations"]


def test_the_predictor_has_the_files_of_all_tasks(both: list[Object], tmp_path: Path) -> None:
    """Where its setting says; KServe gives each InferenceService its own name."""
    (runtime,) = kind_of(both, "ServingRuntime").values()
    (container,) = runtime["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert env["LUNGLINE_FURTHER_TASKS"] == mounts["tasks"]
    (volume,) = (each for each in runtime["spec"]["volumes"] if each["name"] == "tasks")
    for name, text in kind_of(both, "ConfigMap")[volume["configMap"]["name"]]["data"].items():
        (tmp_path / name).write_text(text)
    assert [task.name for task in TaskFolder(tmp_path).tasks()] == [KIND, RIB]
    assert "--model_name={{.Name}}" in container["args"]


def test_pipelines_may_promote_each_task(both: list[Object]) -> None:
    (role,) = (role for name, role in kind_of(both, "Role").items() if name == "promoter")
    (rule,) = (rule for rule in role["rules"] if "patch" in rule["verbs"])
    assert rule["resourceNames"] == ["pneumonia", KIND, RIB]


def test_policies_and_monitors_of_the_predictor_hold_for_every_task() -> None:
    """By a label that KServe gives to the pods of each InferenceService."""
    label = {"serving.kserve.io/inferenceservice": RIB}
    policies = named("production", "NetworkPolicy")
    for policy in ("from-predictor", "to-predictor"):
        assert selects(policies[policy]["spec"]["podSelector"], label)
    peers = policies["to-object-store"]["spec"]["ingress"][0]["from"]
    assert any("podSelector" in peer and selects(peer["podSelector"], label) for peer in peers)
    assert selects(named("production", "PodMonitor")["predictor"]["spec"]["selector"], label)
    assert selects(named("production", "PodDisruptionBudget")["predictor"]["spec"]["selector"], label)
    ours = ("app.kubernetes.io/name", "worklist")
    assert not selects(policies["from-predictor"]["spec"]["podSelector"], dict([ours]))


@pytest.mark.skipif(not VALIDATOR.exists(), reason="the schemas of Knative and KServe are not here")
def test_its_objects_fit_the_schemas_of_their_kinds(both: list[Object], tmp_path: Path) -> None:
    from tests.support.kubernetes_api import validator_of

    check = validator_of("serving.kserve.io_InferenceService.yaml", "eventing.knative.dev_Trigger.yaml")
    checked = [item for item in both if RIB in item["metadata"]["name"]]
    assert {item["kind"] for item in checked} == {"InferenceService", "Trigger"}
    assert [error for item in checked for error in check(item)[0]] == []
    wrong = {**checked[0], "spec": {**checked[0]["spec"], "uploads": 1}}
    assert check(wrong)[0]


def test_a_promotion_changes_the_inference_service_of_its_task() -> None:
    quick: dict[str, Any] = {"poll_seconds": 0.01, "ready_seconds": 5.0, "failed_seconds": 0.2, "patience_seconds": 1.0}
    with running_cluster() as cluster:
        for name in ("pneumonia", RIB):
            cluster.apply(name, yaml.safe_load(component_of(KIND)["inference_service.yaml"]), "kubectl")
        sentence = ClusterDeployment(api_of(cluster), RIB, **quick).deploy(f"s3://lungline-models/{RIB}/1/", "1")
        model = {name: service["spec"]["predictor"]["model"] for name, service in cluster.services.items()}
    assert sentence == f"Version 1 serves as lungline/{RIB}."
    assert model[RIB]["storageUri"] == f"s3://lungline-models/{RIB}/1/"
    assert "storageUri" not in model["pneumonia"]


def test_the_default_task_needs_no_component() -> None:
    with pytest.raises(TaskError, match="The base of the manifests serves the task pneumonia; expected another"):
        component_of("pneumonia")
