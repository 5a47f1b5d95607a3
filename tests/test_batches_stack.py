"""`lungline import` before a whole stack: a kill in between loses nothing, and labels are waited for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop import stack
from lungline.datasets.phantom import jpeg
from lungline.results import record_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.laptop_stack import running_stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.stack

FILES = 200


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Settings]:
    """A stack with a champion."""
    with running_stack(tmp_path_factory.mktemp("stack"), packages[0]) as running:
        yield running


def start(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli", "import", *arguments, "--home", str(settings.home), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_in_between_loses_nothing_and_doubles_nothing(settings: Settings, tmp_path: Path) -> None:
    """Each of 200 files is one upload with one result, and the second call has the label of every file."""
    for number in range(FILES):
        data = write(film(64, seed=number)) if number % 4 == 0 else jpeg(number, opacities=bool(number % 2))
        (tmp_path / f"{number:03d}").write_bytes(data)
    (tmp_path / "letter.txt").write_text("Dear colleague")
    storage, connected = Storage.from_settings(stack.connect(settings)), stack.connect(settings)

    def uploads() -> int:
        return sum(1 for _ in storage.list(connected.uploads_bucket))

    first = start(settings, str(tmp_path), "--rate", "100")
    eventually(lambda: uploads() > 20)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    before = uploads()
    assert before < FILES
    said, complaint = start(settings, str(tmp_path), "--rate", "100", "--wait").communicate(timeout=120)
    rows = json.loads(said or complaint)
    assert uploads() == FILES
    already = sum(row["outcome"] == "already there" for row in rows)
    assert before <= already < FILES  # what was on its way when the call was killed may have come
    assert sum(row["outcome"] == "uploaded" for row in rows) == FILES - already
    assert {row["label"] for row in rows if row["key"]} <= {"Normal", "Unsure", "Pneumonia", "refused"}
    assert [row["name"] for row in rows if not row["key"]] == ["letter.txt"]
    identities = [record.upload.key for record in record_store.every(storage, connected.results_bucket)]
    assert len(identities) == len(set(identities)) == FILES


def test_a_table_ends_it(settings: Settings, tmp_path: Path) -> None:
    """Labels by file, what was no image and why, and how many of each; a failed file makes the exit code 1."""
    (tmp_path / "film").write_bytes(jpeg(FILES + 7, opacities=True))
    (tmp_path / "letter.txt").write_text("Dear colleague")
    (tmp_path / "out").symlink_to("/etc/hostname")
    command = [sys.executable, "-m", "cli", "import", str(tmp_path), "--wait", "--home", str(settings.home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["outcome", "label", "risk", "file", "remark"] in lines
    assert "The file's content is not an image." in done.stdout
    assert "It is a link out of the folder, which is not followed." in done.stdout
    assert [line for line in lines if len(line) > 3 and line[3] == "film" and line[2].endswith("%")]
    assert {("1", "uploaded"), ("1", "not", "an", "image"), ("1", "failed")} <= {tuple(line) for line in lines}
