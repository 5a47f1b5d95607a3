"""What wheel, images and workflows are made of is pinned, and their bills of materials are valid."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cyclonedx import fault_of

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make sbom` writes for two images, once it is validated, which takes most of its time."""
    if not Path(sys.executable).with_name("cyclonedx-py").exists():
        pytest.skip("cyclonedx-bom is not installed; `make setup` installs it")
    folder = tmp_path_factory.mktemp("sbom")
    program = [sys.executable, ROOT / "requirements" / "sbom.py", "--to", folder, "predictor", "pipeline-python"]
    subprocess.run(program, check=True, capture_output=True, timeout=280)
    return {path.name.removesuffix(".cdx.json"): json.loads(path.read_text()) for path in folder.iterdir()}


def test_bills_name_what_the_locks_name(bills: dict[str, Any]) -> None:
    locked = {pin for layer in ("core", "serving") for pin in pins(ROOT / "requirements" / f"{layer}.txt")}
    libraries = (part for part in bills["predictor"]["components"] if part["type"] == "library")
    assert {(part["name"], part["version"]) for part in libraries} == locked
    drivers = {part["name"] for part in bills["pipeline-python"]["components"]} & {"psycopg", "psycopg-binary"}
    assert drivers == {"psycopg", "psycopg-binary"}


def pins(path: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*?)(?:\[[^]]*\])?==(\S+)", path.read_text(), re.MULTILINE))


def test_bills_of_images_name_the_base_by_its_digest(bills: dict[str, Any]) -> None:
    (digest,) = re.findall(r"^ARG PYTHON=\S+@sha256:(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for bill in bills.values():
        bases = [part["hashes"][0]["content"] for part in bill["components"] if part["type"] == "container"]
        assert bases == [digest]


def test_an_invalid_bill_is_noticed() -> None:
    """By the validator that the others are held to."""
    assert "unknown" in str(fault_of('{"bomFormat": "CycloneDX", "specVersion": "1.6", "unknown": 1}'))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_by_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)", workflow.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_the_audit_reads_every_lock() -> None:
    """pip-audit does not follow the `-r` in a file, and says that nothing is wrong with what it has not read."""
    make = shutil.which("make")
    if not make:
        pytest.skip("make is not installed")
    command = [make, "--dry-run", "--assume-old=.venv/.installed", "audit"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    locks = {path.name for path in (ROOT / "requirements").glob("*.txt")}
    assert set(re.findall(r"-r requirements/(\S+)", shown)) == locks
