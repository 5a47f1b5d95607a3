"""The whole flow of `make demo`, on drawn phantoms, with the least training that passes all steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from laptop import stack
from lungline.settings import load_settings

# Two epochs on phantoms train a poor model; this tests the flow, not the metrics.
FLOORS = [
    f"--set=gate.{name}=0" for name in ("auc", "accuracy", "sensitivity", "specificity", "heat_inside", "inside_auc")
]
CEILINGS = [f"--set=gate.{name}=1" for name in ("ece", "unsure_rate", "refused", "border_auc")]
ARGUMENTS = ["--exit", "--json", "--data", "phantom:120", "--set=train.epochs=2", *FLOORS, *CEILINGS]


@pytest.mark.stack
@pytest.mark.timeout(600)
def test_the_demo_runs_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUNGLINE_")}
    command = [sys.executable, "-m", "cli", "demo", "--home", str(home), *ARGUMENTS]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]

    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["results"] == report["uploads"] >= 20
    assert report["version"] == "1"
    assert report["synthetic"] is True
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert {"setup", "train", "total"} <= set(report["seconds"])
    assert re.match(r"http://[0-9a-f]{20}\.localhost:\d+$", report["addresses"]["Worklist"])
    assert report["addresses"]["MLflow"].startswith("http://127.0.0.1:")

    assert "Phantoms are drawn" in ended.stderr
    for step in ("prepare", "validate data", "train", "evaluate", "gate", "register", "promote"):
        assert f"{step:>14}  " in ended.stderr, step

    assert not stack.status(load_settings({"home": home})).running
    processes = subprocess.run(["pgrep", "-f", str(home)], capture_output=True, text=True, check=False).stdout
    assert processes == ""
