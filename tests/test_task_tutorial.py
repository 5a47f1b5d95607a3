"""The tutorial of your own task: every command of it, from a folder of images to a result on the worklist."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from laptop import stack
from lungline.datasets.phantom_dataset import open_phantoms
from lungline.package.card import Card
from lungline.registry.versions import Registry
from lungline.settings import Settings, load_settings
from lungline.task.writing import new_task
from tests.support.command_lines import lungline_commands
from tests.support.waiting import eventually
from worklist.database.models import WorklistEntry
from worklist.database.session import Database

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PAGE = Path(__file__).parent.parent / "docs/your-own-task.md"
TITLE = "From a folder of images to a result"
TASK = new_task("chest-findings", "many-at-once", ("Clear", "Effusion", "Device"))
IMAGES, ARRIVING = 240, 8
# Enough to tell what is large and bright; what a model must reach before it is registered is the gate's own test.
NETWORK = {"MODEL__SIZE": "32", "MODEL__WIDTH": "8"}
TRAINING = {"EPOCHS": "6", "BATCH": "16", "AUGMENT": "0.3", "EXPORT": "direct"}
OPEN = dict.fromkeys(
    ("AUC", "ACCURACY", "SENSITIVITY", "SPECIFICITY", "HEAT_INSIDE", "INSIDE_AUC"), "0"
) | dict.fromkeys(("ECE", "UNSURE_RATE", "REFUSED_RATE", "BORDER_AUC"), "1")
BLOCKS = {"TRAIN": TRAINING, "GATE": OPEN}
SETTINGS = NETWORK | {f"{block}__{name}": value for block, values in BLOCKS.items() for name, value in values.items()}


def tutorial() -> str:
    (section,) = re.findall(rf"^## {TITLE}\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return section


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", tutorial(), re.MULTILINE | re.DOTALL)
    return lungline_commands("\n".join(blocks))


def draw(folder: Path) -> None:
    """The images and the table of the page, and a folder of X-rays that arrive later."""
    dataset = open_phantoms(str(IMAGES), TASK)
    (folder / "xrays/images").mkdir(parents=True)
    (folder / "new").mkdir()
    (head,) = re.findall(r"^```csv\n(.*?)\n", tutorial(), re.MULTILINE)
    with (folder / "xrays/labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, head.split(","))
        table.writeheader()
        for number, example in enumerate(dataset.examples):
            name = f"images/{number:04d}.jpeg"
            (folder / "xrays" / name).write_bytes(dataset.read(example))
            there = {finding.label: example.label >> at & 1 for at, finding in enumerate(TASK.positives)}
            table.writerow({"image": name, "patient": example.patient} | there)
    others = [example for example in open_phantoms("400", TASK).of("test") if example.label == 0b11]
    for number, example in enumerate(others[:ARRIVING]):
        (folder / f"new/{number}.jpeg").write_bytes(dataset.read(example))


def run(folder: Path, arguments: list[str]) -> str:
    """What a command writes, in the folder of the reader."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LUNGLINE_")}
    environment = inherited | {f"LUNGLINE_{name}": value for name, value in SETTINGS.items()} | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The reader's folder, and what each command of the page has written; the last one stops the stack."""
    folder = tmp_path_factory.mktemp("reader")
    draw(folder)
    *steps, last = commands()
    assert last == ["down"]
    try:
        yield folder, {" ".join(arguments[:2]): run(folder, arguments) for arguments in steps}
    finally:
        run(folder, last)


def connected(folder: Path) -> Settings:
    return stack.connect(load_settings({"home": folder / ".lungline", "task": str(folder / "chest-findings.toml")}))


def test_every_command_of_the_tutorial_says_what_it_did(outputs: tuple[Path, dict[str, str]]) -> None:
    folder, written = outputs
    assert "chest-findings is a task: Chest findings (many-at-once: Clear, Effusion, Device)." in written["task check"]
    for step in ("prepare", "validate data", "train", "evaluate", "gate", "register", "promote"):
        assert f"{step:>14}  " in written["train --task"], step
    assert written["upload new"].count("Effusion") + written["upload new"].count("Device") >= ARRIVING // 2
    assert written["worklist link"].strip().startswith("http")
    assert (folder / "chest-findings.toml").exists()


def test_the_model_is_registered_with_metrics_of_each_finding(outputs: tuple[Path, dict[str, str]]) -> None:
    settings = connected(outputs[0])
    registry = Registry(settings)
    assert registry.champion() == "1"
    (version,) = registry.versions()
    metrics = registry.verified({}).entries[-1].facts.metrics
    assert min(metrics["auc_effusion"], metrics["auc_device"], metrics["macro_auc"]) > 0.8
    assert version.version == "1"
    card = Card.model_validate(json.loads((settings.home / "predictor/current/card.json").read_text()))
    low, high = ([getattr(model.thresholds, side) for model in card.findings] for side in ("low", "high"))
    assert [model.name for model in card.findings] == ["EFFUSION", "DEVICE"]
    assert len({*low, *high}) > 2, "each finding has thresholds of its own"


def test_the_worklist_shows_several_findings_of_an_image(outputs: tuple[Path, dict[str, str]]) -> None:
    settings = connected(outputs[0])

    def entries() -> list[Any]:
        with closing(Database.open(settings)) as database, database.reading() as session:
            return list(session.execute(select(WorklistEntry.task, WorklistEntry.label, WorklistEntry.also)).all())

    eventually(lambda: len(entries()) == ARRIVING, 60)
    assert {task for task, _, _ in entries()} == {"chest-findings"}
    assert ("chest-findings", "Effusion", "|Device|") in entries()
