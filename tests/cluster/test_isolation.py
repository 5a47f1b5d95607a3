"""What `make cluster-test` leaves behind, and what it says where it cannot run: ordinary tests, without a cluster."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import binaries, isolation
from tests.support.manifests_of import ROOT
from tests.support.waiting import eventually

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(tool) is None for tool in isolation.TOOLS),
    reason="namespaces need root, util-linux and iproute2",
)
# A bridge, a namespace on it, a mount, a process that left its group and ignores SIGTERM.
INSIDE = """
import pathlib, signal, subprocess, time
from tests.cluster.network import Bridge
Bridge().attach("inner")
subprocess.run(["mount", "-t", "tmpfs", "inner", "/mnt"], check=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs that ignore it
held = subprocess.Popen(["sh", "-c", "trap '' TERM INT; sleep 600 & wait; sleep 600"], start_new_session=True)
pathlib.Path({sign!r}).write_text("up")
try:
    for _ in range(6000):  # a signal that comes just before a sleep begins does not shorten it
        time.sleep(0.1)
except KeyboardInterrupt:
    pass
"""


def _state() -> tuple[str, str, list[str]]:
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    names = [path.name for path in Path("/run/netns").glob("*")]
    mounts = "\n".join(line for line in Path("/proc/self/mounts").read_text().splitlines() if " inner " in line)
    return "\n".join(line.split()[0] for line in links.splitlines()), mounts, names


def _marked(sign: Path) -> list[str]:
    """The processes that run for a test, by their command lines."""
    done = subprocess.run(["pgrep", "-f", str(sign)], capture_output=True, text=True, check=False)
    return done.stdout.split()


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal sends Ctrl-C to the whole group; SIGKILL hits the first process alone."""
    before = _state()
    sign = tmp_path / "sign"
    command = isolation.isolated([sys.executable, "-c", INSIDE.format(sign=str(sign))])
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    try:
        eventually(sign.exists, 60)
        assert _marked(sign)
        (process.send_signal if number == signal.SIGKILL else partial(os.killpg, process.pid))(number)
        process.wait(60)
        eventually(lambda: not _marked(sign), 30)
    finally:
        process.kill()
        process.wait(30)
    assert _state() == before


@needs_root
def test_commands_end_with_the_code_of_what_they_run() -> None:
    for code in (0, 3):
        command = isolation.isolated(["sh", "-c", f"exit {code}"])
        assert subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == code


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SHARED_FOLDER", "/nowhere", "The install manifests of Knative and KServe are not in /nowhere/k8s"),
        ("PATH", "/nowhere", "A real control plane needs unshare, setpriv, ip, mount"),
    ],
)
@needs_root
def test_what_is_missing_is_said_in_one_sentence(variable: str, value: str, sentence: str) -> None:
    environment = os.environ | {variable: value, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_a_machine_without_go_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    binaries.go_version.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    assert binaries.why_not_buildable() == (
        "The control plane is built with Go 1.26 or newer, and `go` is not on the PATH."
    )
    binaries.go_version.cache_clear()


def test_programs_of_other_versions_are_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a program is named by its go.mod, so that a new version never meets an old program."""
    shutil.copytree(binaries.FOLDER / "etcd", tmp_path / "etcd")
    monkeypatch.setattr(binaries, "FOLDER", tmp_path)
    binaries.digest.cache_clear()
    before = binaries.PROGRAMS["etcd"].path
    module = tmp_path / "etcd" / "go.mod"
    module.write_text(module.read_text().replace("v3.6.16", "v3.6.17"))
    binaries.digest.cache_clear()
    assert binaries.PROGRAMS["etcd"].path != before
    binaries.digest.cache_clear()
