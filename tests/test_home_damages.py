"""A home whose files are damaged: `up` works and says what it did, or names file and cure at once; never a traceback.

Some damages are drawn, each of another kind and of another kind of file. All of them, which takes hours:

    HOME_DAMAGES=all pytest tests/test_home_damages.py
"""

import itertools
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laptop import stack
from lungline.datasets.phantom import jpeg
from lungline.errors import StackError
from lungline.home import Home
from lungline.results import records
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.laptop_stack import NO_MLFLOW, with_champion
from tests.support.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

DRAWN = 5
# A refusal reads files and starts nothing; this machine may be busy with other tests.
REFUSAL_SECONDS = 10
CURES = r"restore it|restore /|move it away|remove /|`chown`|lungline (up|down|rollback|promote|history)|move away"


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(2000)),
    "other types": lambda path: path.write_text('[null, {"x": "y"}]'),
    "removed": Path.unlink,
    "a folder": a_folder,
    "unreadable": lambda path: path.chmod(0),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Home:
    """The home of a stack that has had an upload and was stopped."""
    settings = with_champion(tmp_path_factory.mktemp("sound") / "home", packages[0])
    stack.up(settings, attached=True)
    try:
        connected = stack.connect(settings)
        storage = Storage.from_settings(connected)
        storage.put(settings.uploads_bucket, "a.jpeg", jpeg(1, opacities=True))
        eventually(lambda: any(storage.list(settings.results_bucket, records.PREFIX)), 60)
    finally:
        stack.down(settings)
    return Home(settings.home)


def kinds(home: Home) -> dict[str, list[Path]]:
    """The files of a home by kind: those whose names differ in numbers only are of one."""
    files: dict[str, list[Path]] = {}
    for path in sorted(home.path.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(home.path / "logs"):
            name = path.relative_to(home.path).as_posix()
            files.setdefault(re.sub(r"[0-9a-f]{8,}|\d+", "#", name), []).append(Path(name))
    return files


def drawn(home: Home) -> list[tuple[Path, str]]:
    """Pairs of a file and a damage; with HOME_DAMAGES=all every file with every damage."""
    files = kinds(home)
    if os.environ.get("HOME_DAMAGES") == "all":
        return list(itertools.product(itertools.chain.from_iterable(files.values()), DAMAGES))
    chance = random.Random(int(os.environ.get("HOME_DAMAGES", "20261126")))
    names = chance.sample(sorted(files), len(files))
    return [(chance.choice(files[name]), damage) for name, damage in zip(names, itertools.cycle(DAMAGES))][:DRAWN]


def outcome(home: Home, name: Path, damage: str) -> str | None:
    """What is wrong with how `up` deals with a damage; None when nothing is."""
    DAMAGES[damage](home.path / name)
    settings = Settings(home=home.path, mlflow_uri=NO_MLFLOW)
    began = time.monotonic()
    try:
        stack.up(settings, attached=True)
    except StackError as exc:
        seconds, sentence = time.monotonic() - began, str(exc)
        if seconds > REFUSAL_SECONDS:
            return f"refused after {seconds:.0f} s: {sentence}"
        if "\n" in sentence or home.path.as_posix() not in sentence or not re.search(CURES, sentence):
            return f"names no file or no cure: {sentence}"
    finally:
        stack.down(settings)
    return traceback_in(home)


def traceback_in(home: Home) -> str | None:
    """The first traceback in the logs of a home; None when there is none."""
    for path in sorted((home.path / "logs").rglob("*")):
        text = path.read_text(errors="replace") if path.is_file() else ""
        if found := re.search(r"Traceback|Exception in ASGI application", text):
            return f"{path.name}: {text[found.start() :][-3000:]}"
    return None


def test_each_damage_is_mended_or_named(sound: Home, tmp_path: Path) -> None:
    faults: list[str] = []
    for number, (name, damage) in enumerate(drawn(sound)):
        home = Home(tmp_path / str(number))
        shutil.copytree(sound.path, home.path, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        fault = outcome(home, name, damage)
        if fault:
            faults.append(f"{name} {damage}: {fault}")
        for path in home.path.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(home.path, ignore_errors=True)
    assert faults == []
