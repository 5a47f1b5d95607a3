"""Promotions on a cluster from the command line and from the pipeline's step: real registry, Kubernetes made small."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import main
from components.promote import promote as promote_step
from lungline.deployment import kserve
from lungline.deployment.base import deployment_of
from lungline.deployment.kubernetes_api import ClusterRefused
from lungline.errors import PromotionRefused
from lungline.package.card import CodeFacts, DataFacts
from lungline.promotion.anchored_history import accept
from lungline.promotion.challenger import challenge
from lungline.registry import registration, tracking
from lungline.registry.versions import Registry
from lungline.settings import Settings, load_settings, variable
from lungline.site_key import generate_key
from tests.support.kubernetes_api import ROOT, Cluster, running_cluster, write_kubeconfig
from tests.support.tiny_package import write_tiny_package
from tests.test_canary import prometheus

MODEL = "cluster-model"
WHO = ("--by", "Dr. A", "--reason", "better on our own films")
REAL = DataFacts(name="films", digest="d" * 64, synthetic=False)


@pytest.fixture(scope="module")
def registered(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a registry with two versions that were trained on real films."""
    folder = tmp_path_factory.mktemp("registered")
    named = {
        **services,
        "model_name": MODEL,
        "experiment": MODEL,
        "home": str(folder / "home"),
        "site_key": generate_key().pem,
    }
    for number in (1, 2):
        register(load_settings(named), folder / str(number), seed=number)
    return named


def register(settings: Settings, folder: Path, *, seed: int) -> None:
    """Register a version of the settings' model that was trained on real films."""
    write_tiny_package(folder / "package", seed=seed, version=None, data=REAL)
    (folder / "run").mkdir()
    tracking.new_record(settings, REAL, CodeFacts(version="0.1.0")).save(folder / "run")
    run = tracking.settle(settings, folder / "run")
    tracking.note(settings, run, tags={tracking.GATE: "passed"})
    registration.register(
        Registry(settings), folder / "package", run_id=run, pipeline_run="pipe/7", metrics={"auc": 0.98}
    )


@pytest.fixture
def cluster(registered: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that kubectl knows, and the addresses of the registry in the environment, as a person has them."""
    monkeypatch.setattr(kserve, "POLL_SECONDS", 0.01)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in registered.items():
        monkeypatch.setenv(variable(name), value)
    with running_cluster() as running:
        running.controllers.starts = 0.1
        write_kubeconfig(tmp_path / "kubeconfig", running.address, monkeypatch)
        _know_history(registered)
        running.requests.clear()
        yield running


def _know_history(registered: dict[str, str]) -> None:
    """Accept the history in a cluster that is newer than it, and so has no anchor of it."""
    settings = load_settings({**registered, "deployment": "cluster", "kube_context": "here"})
    with contextlib.suppress(PromotionRefused):
        accept(by="Ada", reason="a new cluster", settings=settings, deployment=deployment_of(settings))


class Terminal:
    """What a person types, and what comes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.err = ""

    def run(self, *arguments: str) -> Any:
        """The JSON value of a command that must succeed."""
        assert self.code(*arguments, "--json") == 0, self.err
        return json.loads(self.out)

    def code(self, *arguments: str) -> int:
        self._monkeypatch.setattr("sys.argv", ["lungline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        shown = self._capsys.readouterr()
        self.out, self.err = shown.out, shown.err
        return int(ended.value.code or 0)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


HERE = ("--on", "cluster", "--context", "here")


def test_a_canary_needs_the_second_opinions_of_a_promotion(
    cluster: Cluster, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers real uploads. This test comes first: a version that has served needs none."""
    terminal.run("promote", "1", *HERE, *WHO)
    monkeypatch.setenv("LUNGLINE_GATE__SHADOW_RESULTS", "3")
    assert terminal.code("promote", "2", *HERE, "--canary", "10") == 1
    assert "Version 2 has too few second opinions from the shadow: expected at least 3" in terminal.err
    assert len(cluster.controllers.revisions) == 1


def test_a_version_is_promoted_tried_finished_and_taken_back(
    cluster: Cluster, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = terminal.run("promote", "1", *HERE, *WHO)
    assert done["sentence"] == f"Version 1 serves as lungline/{MODEL}."
    assert "Version 1 takes 0 % of the requests." in terminal.err, "progress"
    predictor = cluster.services[MODEL]["spec"]["predictor"]
    assert predictor["model"]["storageUri"] == f"s3://lungline-models/{MODEL}/1/"

    tried = terminal.run("promote", "2", *HERE, "--canary", "10")
    assert tried["canary"] == {"version": "2", "percent": 10}
    assert predictor["canaryTrafficPercent"] == 10
    champion, canary = (revision.name for revision in cluster.controllers.revisions[-2:])
    fine = {(revision, "count"): 200.0 for revision in (champion, canary)} | {
        (revision, "p99"): 0.2 for revision in (champion, canary)
    }
    with prometheus(fine) as address:
        watched = ("--watch", "0", "--prometheus", address, "--finish")
        finished = terminal.run("promote", *HERE, *watched, *WHO)
    assert finished["watched"]["passed"] is True
    assert finished["promotion"]["version"] == "2"
    assert "canary 200 requests, 0.0% errors, p99 0.20 s" in terminal.err
    assert "canaryTrafficPercent" not in predictor

    terminal.run("promote", "1", *HERE, "--canary", "25")
    taken = terminal.run("rollback", *HERE, *WHO)
    assert taken["sentence"] == "Version 1 takes no more requests; version 2 serves."
    back = terminal.run("rollback", *HERE, *WHO)
    assert (back["version"], back["replaced"]) == ("1", "2")
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")  # no laptop stack is asked for
    assert [entry["version"] for entry in terminal.run("history") if entry["act"] == "promoted"] == ["1", "2", "1"]


def test_another_task_is_promoted_by_its_name(
    cluster: Cluster, registered: dict[str, str], terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is not at hand: the registry has a model of that name. Without --task all is as before."""
    name, task = "rib-fracture", ("--task", "rib-fracture")
    its = load_settings({**registered, "model_name": name, "experiment": name})
    for number in (1, 2):
        register(its, tmp_path / str(number), seed=number)
    for number in "12":
        done = terminal.run("promote", number, *task, *HERE, *WHO)
        assert done["sentence"] == f"Version {number} serves as lungline/{name}."
    assert terminal.run("rollback", *task, *HERE, *WHO)["version"] == "1"
    assert list(cluster.services) == [name]
    assert cluster.services[name]["spec"]["predictor"]["model"]["storageUri"] == f"s3://lungline-models/{name}/1/"
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
    assert {version["package"] for version in terminal.run("models", *task)} == {
        f"s3://lungline-models/{name}/{number}/" for number in "12"
    }
    assert [entry["version"] for entry in terminal.run("history", *task) if entry["act"] == "promoted"] == [
        "1",
        "2",
        "1",
    ]
    assert all(f"/{MODEL}/" in version["package"] for version in terminal.run("models"))
    # The environment names the model of the default task, and not that of another.
    assert terminal.run("models", "--task", "pneumonia-kind") == []


def test_an_unknown_task_is_told_with_those_that_exist(
    cluster: Cluster, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
    assert terminal.code("models", "--task", "rib-fractur") == 1
    sentence = terminal.err.strip()
    assert sentence.startswith("Error: There is no task rib-fractur: expected a task file, or one of ")
    assert f"{MODEL}, " in sentence
    assert "pneumonia, pneumonia-kind" in sentence
    assert cluster.requests == []


def test_a_worse_canary_is_withdrawn(cluster: Cluster, terminal: Terminal) -> None:
    """A canary that is worse goes by itself and is not finished."""
    terminal.run("promote", "1", *HERE, *WHO)
    terminal.run("promote", "2", *HERE, "--canary", "10")
    revisions = [revision.name for revision in cluster.controllers.revisions[-2:]]
    worse = {(revision, "count"): 200.0 for revision in revisions} | {(revisions[1], "errors"): 40.0}
    with prometheus(worse) as address:
        watched = ("--watch", "60", "--prometheus", address, "--finish")
        assert terminal.code("promote", *HERE, *watched, *WHO, "--json") == 1
    output = json.loads(terminal.out)
    assert output["watched"]["withdrawn"] is True
    assert "fails 20.0% of its requests" in output["watched"]["sentence"]
    assert "promotion" not in output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["promote", "1", *HERE], "a promotion needs --by and --reason"),
        (["promote", "--finish", *HERE], "a promotion needs --by and --reason"),
        (["promote", "1", "--watch", "1", *HERE], "give no version"),
        (["promote", "--watch", "1", *HERE], "--watch needs --prometheus"),
        (["promote", "--canary", "100", *HERE], "less than or equal to 99"),
    ],
)
def test_contradicting_options_are_refused_before_any_request(
    cluster: Cluster, terminal: Terminal, arguments: list[str], why: str
) -> None:
    assert terminal.code(*arguments) == 2
    assert why in " ".join(terminal.err.replace("│", " ").split())
    assert cluster.requests == []


def test_the_pipeline_step_promotes_by_its_config_map(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pipelines step promotes by the setting that its config map gives."""
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
    monkeypatch.setenv("LUNGLINE_KUBE_CONTEXT", "here")  # in a pod the cluster is the pod's own
    step: Any = promote_step
    step.python_func(version="2", verdict="The gate passed.")
    assert cluster.services[MODEL]["spec"]["predictor"]["model"]["storageUri"].endswith("/2/")
    assert f"Version 2 serves as lungline/{MODEL}." in capsys.readouterr().out


def test_a_context_that_is_not_there_is_one_sentence(cluster: Cluster) -> None:
    settings = Settings(deployment="cluster", kube_context="nowhere")
    with pytest.raises(ClusterRefused, match="Cannot connect to a cluster"):
        deployment_of(settings)
    assert cluster.requests == []


def install(cluster: Cluster, component: str, *, model: str = MODEL, **changed: Any) -> str:
    """Apply the InferenceService of a component under a model's name, which is returned with its end."""
    manifest = yaml.safe_load((ROOT / f"manifests/components/{component}/inference_service.yaml").read_text())
    manifest["spec"]["predictor"]["model"] |= changed
    name = f"{model}-{component}"
    cluster.apply(name, manifest | {"metadata": {"name": name, "namespace": "lungline"}}, "kubectl")
    cluster.requests.clear()
    return name


def test_a_shadow_is_named_in_a_service_of_its_own(cluster: Cluster, terminal: Terminal) -> None:
    """One that would answer is left alone; what makes it give second opinions stays."""
    assert terminal.code("shadow", "start", "2", *HERE) == 1
    assert f"has no InferenceService {MODEL}-shadow for second opinions" in terminal.err
    name = install(cluster, "shadow")
    done = terminal.run("shadow", "start", "2", *HERE)
    assert done["sentence"] == f"Version 2 serves as lungline/{name}."
    model = cluster.services[name]["spec"]["predictor"]["model"]
    assert model["storageUri"] == f"s3://lungline-models/{MODEL}/2/"
    assert model["args"] == ["--purpose=shadow"]
    assert MODEL not in cluster.services
    stands = terminal.run("shadow", "status", *HERE)
    assert (stands["version"], stands["ready"], stands["stopped"], stands["results"]) == ("2", True, False, 0)


def test_a_shadow_is_stopped_and_started_again(cluster: Cluster, terminal: Terminal) -> None:
    """KServe takes its predictor down; a component without a version has none to stop."""
    install(cluster, "shadow")
    assert terminal.run("shadow", "stop", *HERE) == {"version": None}
    assert terminal.code("shadow", "status", *HERE) == 1
    assert f"No version is named in {MODEL}-shadow." in terminal.out
    terminal.run("shadow", "start", "2", *HERE)
    assert terminal.run("shadow", "stop", *HERE) == {"version": "2"}
    assert cluster.controllers.revisions == []
    service = cluster.services[f"{MODEL}-shadow"]
    assert service["spec"]["predictor"]["model"]["args"] == ["--purpose=shadow"]
    assert terminal.code("shadow", "status", *HERE) == 1
    assert "Version 2 is stopped." in terminal.out
    assert terminal.run("shadow", "stop", *HERE) == {"version": None}
    terminal.run("shadow", "start", "2", *HERE)
    assert "serving.kserve.io/stop" not in service["metadata"]["annotations"]
    assert terminal.run("shadow", "status", *HERE)["ready"] is True


def test_a_back_fill_of_another_task_is_stopped_by_its_name(
    cluster: Cluster, registered: dict[str, str], terminal: Terminal, tmp_path: Path
) -> None:
    """Without --task that of the default one is meant, which is not there."""
    name = "device-finding"
    its = load_settings(
        registered | {"model_name": name, "experiment": name, "deployment": "cluster", "kube_context": "here"}
    )
    register(its, tmp_path / "1", seed=1)
    install(cluster, "rejudge", model=name)
    challenge(its, "1", "rejudge")
    stop = ("rejudge", "--stop", *HERE)
    assert terminal.code(*stop) == 1
    assert terminal.run(*stop, "--task", name) == {"version": "1"}
    assert terminal.code("shadow", "start", "1", "--task", name, *HERE) == 1
    assert f"and what `lungline task manifests {name} --for shadow` writes" in terminal.err


def test_a_service_that_answers_is_never_stopped_as_a_shadow(cluster: Cluster, terminal: Terminal) -> None:
    """As that of a task whose name ends like this."""
    install(cluster, "shadow", args=[])
    assert terminal.code("shadow", "stop", *HERE) == 1
    assert "for second opinions" in terminal.err
    assert not any(request.startswith("PATCH") for request in cluster.requests)
