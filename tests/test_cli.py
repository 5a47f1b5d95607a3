"""The command line as a person meets it: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from cli import main
from tests.support.tiny_package import write_tiny_package


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUNGLINE_DATA", raising=False)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lungline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


def test_an_error_is_one_sentence_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "evaluate", "--data", "nowhere.zip", "--model", ".") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("prefix", ["a/../", "./", "..", "a/./b/"])
def test_a_prefix_that_leads_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, prefix: str
) -> None:
    (tmp_path / "x.png").touch()
    assert run(monkeypatch, "upload", "x.png", "--prefix", prefix) == 2
    assert f"{prefix} has the part . or .." in capsys.readouterr().err


def test_a_command_that_needs_a_stack_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["models"], ["history"], ["env"], ["results"], ["promote", "--by", "Ada", "--reason", "better"]):
        assert run(monkeypatch, *command) == 1, command
        assert "`lungline up` starts one" in capsys.readouterr().err, command


def test_on_a_cluster_no_stack_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
    monkeypatch.setenv("LUNGLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGLINE_WORKLIST__URI", "https://xray.example.org")
    assert run(monkeypatch, "worklist", "link") == 0
    assert capsys.readouterr().out.startswith("https://xray.example.org/login?token=")


def test_status_without_a_stack_is_exit_code_1_and_still_one_json_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_down_without_a_stack_is_no_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "down", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": False}


def test_doctor_names_the_cure_for_a_stack_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "doctor", "--json") == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["python"]["passed"]
    assert (checks["stack"]["passed"], checks["stack"]["cure"]) == (False, "lungline up")


def test_an_unknown_setting_is_refused_with_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compile", "--set", "train.epoch=3") == 1
    assert "Did you mean train.epochs?" in capsys.readouterr().err


def test_an_assignment_without_a_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compile", "--set", "train.epochs") == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_every_setting_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "env", "--settings", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert ["LUNGLINE_TRAIN__SEED", 7, "Seed of shuffling, augmentation and initial weights."] in listed


def test_the_compiled_pipeline_loads_and_runs_our_image_in_every_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml
    from kfp.components import load_component_from_file

    image = "registry.example.org/lungline-python:1"
    assert run(monkeypatch, "compile", "-o", "p.yaml", "--set", f"kfp_image={image}") == 0
    assert image in capsys.readouterr().out
    assert load_component_from_file("p.yaml").name == "pneumonia-training"
    executors = next(yaml.safe_load_all(Path("p.yaml").read_text()))["deploymentSpec"]["executors"]
    assert len(executors) == 7
    assert {executor["container"]["image"] for executor in executors.values()} == {image}


def test_evaluate_judges_a_test_split_with_a_package_in_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_tiny_package(tmp_path / "package")
    assert run(monkeypatch, "evaluate", "--data", "phantom:100", "--model", "package", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 20
    assert found["classes"] == {"NORMAL": 10, "PNEUMONIA": 10}
    assert 0 <= found["auc"] <= 1
    assert {"accuracy", "sensitivity", "specificity", "ece", "per_class", "intervals"} <= set(found)


def test_evaluate_shows_the_same_as_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_tiny_package(tmp_path / "package")
    assert run(monkeypatch, "evaluate", "--data", "phantom:100", "--model", "package") == 0
    shown = capsys.readouterr().out
    assert "20 X-rays judged" in shown
    assert "Not a medical device" in shown


def test_training_on_a_server_needs_its_address_and_says_when_it_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--on", "kfp", "--data", "phantom") == 2
    assert "--host" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--on", "kfp", "--data", "phantom", "--host", "http://127.0.0.1:9") == 1
    assert "does not answer" in capsys.readouterr().err
