import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.step_events import Event
from laptop.retraining import labels_cause, retrain
from lungline.datasets.phantom import jpeg
from lungline.errors import DataError, PipelineFailed
from lungline.package.card import CARD
from lungline.registry import mlflow_client
from lungline.registry.versions import Registry
from lungline.results.records import ResultRecord
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from pipelines.arguments import STEPS
from pipelines.compile import compile_pipeline
from pipelines.run import RunSummary, run_local
from tests.support.browser_reader import correct_on_the_page, exported

TRAINING = {"data": "phantom:220", "model.size": 32, "model.width": 4, "train.epochs": 2, "train.batch": 16}
TRAINING |= {"train.export": "direct"}  # seconds sooner
# Two epochs teach nothing; what a real model must reach is the gate's own test.
OPEN_GATE = {
    **dict.fromkeys(("gate.auc", "gate.accuracy", "gate.sensitivity", "gate.specificity"), 0),
    **dict.fromkeys(("gate.heat_inside", "gate.inside_auc"), 0),
    **dict.fromkeys(("gate.ece", "gate.unsure_rate", "gate.refused_rate", "gate.margin", "gate.border_auc"), 1),
}


@pytest.fixture(scope="module")
def settings_for(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Settings that share one home, so that later runs may reuse the steps of the first."""
    home = tmp_path_factory.mktemp("home")
    (home / "predictor").mkdir()

    def made(**changes: Any) -> Settings:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return load_settings({**services, "home": str(home), **TRAINING, **OPEN_GATE, **named})

    return made


@pytest.fixture(scope="module")
def corrected(settings_for: Callable[..., Settings]) -> ResultRecord:
    """What a reader has corrected before the first run."""
    return correct_on_the_page(settings_for())


@pytest.fixture(scope="module")
def first(settings_for: Callable[..., Settings], corrected: ResultRecord) -> tuple[RunSummary, list[Event]]:
    """The run that all others build on: one new label has caused it."""
    reported: list[Event] = []
    settings = settings_for(worklist__retrain_labels=1)
    with pytest.MonkeyPatch.context() as terminal:
        # MLflow prints a running figure, which such a terminal cannot show.
        terminal.setenv("PYTHONIOENCODING", "ascii")
        done = retrain(settings, [labels_cause(settings)], reported.append)
    assert done.summary, done.why
    return done.summary, reported


@pytest.fixture
def again(first: tuple[RunSummary, list[Event]], settings_for: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings of another run on the same data."""
    home = settings_for().home
    return partial(settings_for, feedback=str(home / "feedback" / "until-1"))


def run(settings: Settings, **options: Any) -> tuple[RunSummary, list[Event]]:
    reported: list[Event] = []
    return run_local(settings, reported.append, **options), reported


def test_a_run_reports_every_step_and_epoch(first: tuple[RunSummary, list[Event]]) -> None:
    summary, reported = first
    assert [event.step for event in reported if event.kind == "started"] == list(STEPS)
    assert [event.step for event in reported if event.kind == "done"] == ["data", *STEPS]
    assert [event.values["epoch"] for event in reported if "epoch" in event.values] == [1, 2]
    assert any("Phantoms are drawn" in event.text for event in reported if event.step == "data")
    assert summary.reused == ()
    assert set(summary.seconds) == {*STEPS, "total"}


def test_a_correction_is_in_the_run_that_it_caused(
    first: tuple[RunSummary, list[Event]], settings_for: Callable[..., Settings], corrected: ResultRecord
) -> None:
    """A reader corrected a result on the page, which made the run due."""
    summary, settings = first[0], settings_for(worklist__retrain_labels=1)
    assert summary.data.name == "phantom:220 with 1 reader label"
    assert "Merged 1 reader label into the data." in (summary.data.notice or "")
    run = mlflow_client.connect(settings).get_run(summary.mlflow_run)
    assert run.data.params["data.feedback"] == run.data.tags["feedback_labels"] == "1"
    (image,) = exported(settings)
    assert image.parts[-2:] == ("PNEUMONIA", f"person41_{corrected.upload.identity}.jpeg")
    card = json.loads((settings.home / "predictor" / "current" / CARD).read_text())
    assert (card["data"]["feedback"], card["data"]["digest"]) == (1, summary.data.digest)
    assert not labels_cause(settings).is_due, "the run knows them"


def test_a_run_ends_with_a_champion_that_answers_for_itself(
    first: tuple[RunSummary, list[Event]], settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    summary, _ = first
    settings = settings_for()
    registry = Registry(settings)
    assert summary.verdict.passed
    assert summary.champion
    assert summary.version == registry.champion() == registry.versions()[0].version
    last = registry.verified({}).entries[-1]
    assert (last.by, last.reason) == ("policy:auto", summary.verdict.sentence)
    assert last.facts.data_digest == summary.data.digest
    assert last.facts.metrics == pytest.approx(summary.evaluation.metrics())
    card = registry.fetch(summary.version or "", tmp_path / "package").card
    assert card.mlflow_run_id == summary.mlflow_run
    assert (card.pipeline_run or "").startswith(summary.run)
    assert card.synthetic
    assert card.seed == 7
    current = settings.home / "predictor/current"
    assert json.loads((current / CARD).read_text())["version"] == summary.version
    assert "No predictor is running" in summary.next


def test_mlflow_shows_the_settings_and_results_of_a_run(
    first: tuple[RunSummary, list[Event]], settings_for: Callable[..., Settings]
) -> None:
    summary, _ = first
    settings = settings_for()
    client = mlflow_client.connect(settings)
    logged = client.get_run(summary.mlflow_run)
    assert logged.info.status == "FINISHED"
    assert summary.mlflow_url.endswith(summary.mlflow_run)
    assert logged.data.params["train.epochs"] == "2"
    assert logged.data.params["library.tensorflow-cpu"]
    assert logged.data.metrics["test_auc"] == pytest.approx(summary.evaluation.auc)
    assert all(logged.data.metrics[f"seconds_{name}"] > 0 for name in ("prepare", "train", "evaluate"))
    assert len(client.get_metric_history(summary.mlflow_run, "val_auc")) == 2
    assert logged.data.tags["pipeline_run"].startswith(summary.run)
    assert logged.data.tags["data_digest"] == summary.data.digest
    assert logged.data.tags["code_dirty"] in {"true", "false", "none"}
    held = {
        item.path for place in ("", "evaluation", "model") for item in client.list_artifacts(summary.mlflow_run, place)
    }
    plots = {f"evaluation/{name}.png" for name in ("learning_curve", "roc", "confusion_matrix", "samples")}
    assert plots | {"model/network.keras", "evaluation/report.html", "evaluation/model_card.md", "record.json"} <= held
    stored = [info.key for info in Storage.from_settings(settings).list(settings.mlflow_bucket)]
    assert any(summary.mlflow_run in key and key.endswith("roc.png") for key in stored)


def test_no_secret_and_nothing_temporary_is_left_behind(
    first: tuple[RunSummary, list[Event]], settings_for: Callable[..., Settings], services: dict[str, str]
) -> None:
    summary, _ = first
    log, secret = Path(summary.log), services["s3_secret_key"].encode()
    assert secret not in log.read_bytes()
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    folder = settings_for().home / "pipeline"
    for path in folder.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes()


def test_a_second_run_reuses_unchanged_steps_and_says_so(
    first: tuple[RunSummary, list[Event]], again: Callable[..., Settings]
) -> None:
    summary, reported = run(again())
    assert summary.reused == STEPS[:4]
    assert [event.step for event in reported if event.kind == "reused"] == list(STEPS[:4])
    assert summary.version == first[0].version, "the same package is registered once"
    assert summary.champion
    assert summary.next == f"Version {summary.version} is the champion already."
    assert summary.mlflow_run == first[0].mlflow_run


def test_a_failed_gate_registers_nothing(
    again: Callable[..., Settings],
) -> None:
    """The sentence says by how much each rule was missed."""
    settings = again(gate__auc=1, gate__accuracy=1)
    before = len(Registry(settings).versions())
    summary, reported = run(settings)
    assert summary.reused == STEPS[:4], "another gate does not train again"
    assert not summary.verdict.passed
    assert (summary.version, summary.champion) == (None, False)
    assert "auc is" in summary.next
    assert "missed by" in summary.next
    assert not {"register", "promote"} & {event.step for event in reported}
    assert len(Registry(settings).versions()) == before
    assert mlflow_client.connect(settings).get_run(summary.mlflow_run).data.tags["gate"] == "failed"


def test_the_manual_policy_leaves_a_challenger(
    again: Callable[..., Settings],
) -> None:
    """The sentence says how to promote it."""
    settings = again(policy="manual", model_name="by-hand")
    summary, _ = run(settings)
    assert not summary.champion
    assert Registry(settings).champion() is None
    assert Registry(settings).resolve("challenger") == summary.version
    assert f"lungline promote {summary.version} --by NAME --reason TEXT" in summary.next


def test_a_broken_contract_stops_the_run_with_one_sentence(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    for split, count in (("train", 31), ("val", 6), ("test", 11)):
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            place = tmp_path / "xrays" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                patient = 1000 * label + index + 100 * ("train", "val", "test").index(split)
                place.joinpath(f"person{patient}_1.jpeg").write_bytes(jpeg(patient, opacities=bool(label), size=64))
    twin = tmp_path / "xrays/test/NORMAL/person9999_1.jpeg"
    twin.write_bytes((tmp_path / "xrays/train/NORMAL/person0_1.jpeg").read_bytes())
    reported: list[Event] = []
    with pytest.raises(PipelineFailed) as failure:
        run_local(settings_for(data=str(tmp_path / "xrays")), reported.append)
    sentence = str(failure.value)
    assert sentence.startswith("Step validate_data failed: The data break the contract: no image may be in two splits")
    assert "person9999_1.jpeg" in sentence
    assert "Traceback" not in sentence
    page = Path(sentence.rpartition(" See ")[2].removesuffix("."))
    assert "<html" in page.read_text()
    assert [event.step for event in reported if event.kind == "started"] == ["prepare", "validate_data"]


def test_data_that_cannot_be_opened_are_refused_before_anything_runs(settings_for: Callable[..., Settings]) -> None:
    with pytest.raises(DataError, match="There is no data at"):
        run_local(settings_for(data="/nowhere"))


def test_a_path_not_in_utf8_is_refused_before_running(settings_for: Callable[..., Settings]) -> None:
    with pytest.raises(DataError, match=r"path /nowhere/\\udcff is not UTF-8: rename the data, or link to them"):
        run_local(settings_for(data="/nowhere/\udcff"))


def test_an_interrupted_run_leaves_no_process_behind(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(home=str(tmp_path))

    def interrupt(event: Event) -> None:
        if event.step == "prepare" and event.kind == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(settings, interrupt)
    assert processes_of(tmp_path) == []


def test_a_run_ends_when_its_parent_is_killed(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(home=str(tmp_path))
    script = (
        "import json, sys\n"
        "from lungline.settings import load_settings\n"
        "from pipelines.run import run_local\n"
        "run_local(load_settings(json.loads(sys.argv[1])), lambda event: print(event.step, event.kind, flush=True))\n"
    )
    overrides = {"home": str(tmp_path), "data": settings.data, "model.size": 32, "mlflow_uri": settings.mlflow_uri}
    command = [sys.executable, "-c", script, json.dumps(overrides)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert "prepare started\n" in iter(parent.stdout.readline, "")
        assert processes_of(tmp_path) != []
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (left := processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line or environment names a folder: a run, its steps, and what those started."""
    numbers: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            data = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in data:
            numbers.append(int(process.name))
    return numbers


def test_the_compiled_pipeline_loads_with_our_image_on_every_step(tmp_path: Path) -> None:
    from kfp.components import load_component_from_file

    image = "registry.example/lungline-python:7"
    compile_pipeline(tmp_path / "p.yaml", load_settings({"kfp_image": image}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # kfp leaves the file open
        loaded: Any = load_component_from_file(str(tmp_path / "p.yaml"))
    executors = loaded.pipeline_spec.deployment_spec["executors"]
    assert len(executors) == len(STEPS)
    assert {executor["container"]["image"] for executor in executors.values()} == {image}
    assert set(loaded.component_spec.inputs) >= {"data", "model", "train", "gate", "policy"}


def test_the_compiled_pipeline_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys\n"
        "from lungline.settings import load_settings\n"
        "from pipelines.compile import compile_pipeline\n"
        "compile_pipeline(pathlib.Path(sys.argv[1]), load_settings())\n"
    )
    files = [tmp_path / "one" / "p.yaml", tmp_path / "two" / "p.yaml"]
    for seed, file in enumerate(files):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", script, str(file)], check=True, timeout=60, env=environment)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"train: dict\n" in files[0].read_bytes()
