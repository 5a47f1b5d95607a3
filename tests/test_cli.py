"""The command line as a person meets it: what it prints, and its exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main

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


@pytest.mark.parametrize("prefix", ["/ward/", "ward//", "a\tb/", "r\udcf6ntgen/"])
def test_a_prefix_that_no_key_can_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, prefix: str
) -> None:
    (tmp_path / "x.png").touch()
    assert run(monkeypatch, "upload", "x.png", "--prefix", prefix) == 2
    assert "expected one such as ward/7/" in capsys.readouterr().err


def test_without_a_stack_a_command_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["models"], ["history"], ["env"], ["results"], ["promote", "--by", "Ada", "--reason", "better"]):
        assert run(monkeypatch, *command) == 1, command
        assert "`lungline up` starts one" in capsys.readouterr().err, command


def test_on_a_cluster_no_stack_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
    monkeypatch.setenv("LUNGLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGLINE_WORKLIST__URI", "https://xray.example.org")
    assert run(monkeypatch, "worklist", "link") == 0
    assert capsys.readouterr().out.startswith("https://xray.example.org/login?token=")


def test_status_without_a_stack_is_exit_code_1_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_down_without_a_stack_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "down", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": False}


def test_doctor_says_how_to_start_the_stack(
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


def test_every_step_of_the_compiled_pipeline_has_our_image(
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


def test_evaluate_takes_a_package_in_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_tiny_package(tmp_path / "package")
    assert run(monkeypatch, "evaluate", "--data", "phantom:100", "--model", "package", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["n"] == 20
    assert metrics["classes"] == {"NORMAL": 10, "PNEUMONIA": 10}
    assert 0 <= metrics["auc"] <= 1
    assert {"accuracy", "sensitivity", "specificity", "ece", "per_class", "intervals"} <= set(metrics)


def test_evaluate_shows_the_same_as_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_tiny_package(tmp_path / "package")
    assert run(monkeypatch, "evaluate", "--data", "phantom:100", "--model", "package") == 0
    shown = capsys.readouterr().out
    assert "20 X-rays predicted" in shown
    assert "Not a medical device" in shown


def test_training_on_a_server_needs_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--on", "kfp", "--data", "phantom") == 2
    assert "--host" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--on", "kfp", "--data", "phantom", "--host", "http://127.0.0.1:9") == 1
    assert "does not answer" in capsys.readouterr().err


def test_the_version_is_that_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"lungline {version('lungline')}\n"


def commands() -> Iterator[list[str]]:
    """The names of every command and group of commands."""
    group: Any = typer.main.get_command(main.app)
    yield []
    for name, command in group.commands.items():
        yield [name]
        yield from ([name, nested] for nested in getattr(command, "commands", ()))


@pytest.mark.parametrize("names", list(commands()), ids=" ".join)
def test_help_names_no_type_and_keeps_its_brackets(
    names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *names, "--help") == 0
    shown = capsys.readouterr().out
    assert not re.search(r"\s\.\s", shown)
    assert not re.search(r"--\S+ +<(bool|str|int|float|path|file|list)", shown)
    if "--home" in shown:
        assert "--home FOLDER" in shown
        assert "[default: .lungline]" in " ".join(shown.split())


def test_every_command_fits_into_one_line_of_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--home", ""],
        ["export", "-o", ""],
        ["compile", "-o", ""],
        ["feedback", "export", ""],
        ["monitor", "--report", ""],
        ["monitor", "--since", "99999999d"],
        ["results", "--last", "-1"],
        ["reconcile", "--grace", "inf"],
        ["reconcile", "--grace", "1e300"],
        ["reconcile", "--grace", "nan"],
        ["train", "--kfp-token-file", "/nowhere"],
    ],
    ids=" ".join,
)
def test_an_odd_argument_is_one_sentence(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each was a traceback, or took the current folder for an empty name."""
    if "--since" in arguments:
        monkeypatch.setenv("LUNGLINE_DEPLOYMENT", "cluster")
        monkeypatch.setenv("LUNGLINE_S3_ENDPOINT", "http://127.0.0.1:9")
    assert run(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "ascii:strict", "utf-8"])
def test_a_terminal_of_few_letters_shows_everything(encoding: str, tmp_path: Path) -> None:
    """Bars, names and JSON; each raised UnicodeEncodeError."""
    script = (
        "import os\n"
        "from cli import console\n"
        "console.accept_any_text()\n"
        "name = os.fsdecode(b'Zo\\xc3\\xab r\\xf6ntgen.png')\n"
        "console.say(console.bar(0.5) + ' ' + name)\n"
        "console.table(('key',), [(name,)])\n"
        "console.error(name)\n"
        "console.raw([name])\n"
        "console.dump({'key': name})\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout.decode(encoding.partition(":")[0])
    assert ("█" * 10 if encoding == "utf-8" else "#" * 10 + ".") in shown
    assert json.loads(shown.splitlines()[-1])["key"] == os.fsdecode(b"Zo\xc3\xab r\xf6ntgen.png")
