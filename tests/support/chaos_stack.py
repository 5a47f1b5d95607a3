"""A laptop stack whose parts reach the store through a door, from its start until nothing of it is left."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from statistics import median

import boto3
from botocore.config import Config

from laptop import stack
from laptop.home.ports import Ports, load_ports
from laptop.services.process import birth
from laptop.services.service import base_environment, settings_environment
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.home import Home
from lungline.network import is_free
from lungline.package.card import Thresholds, amend_card
from lungline.package.package import Package
from lungline.settings import Settings
from tests.support.chaos_run import Chaos, eventually, picture
from tests.support.flaky_store import door
from tests.support.open_ports import family

# Nothing listens there: MLflow is down throughout.
NO_MLFLOW = "http://127.0.0.1:9"


def install(home: Path, package: Path, version: str) -> Path:
    """A copy of a package among those that may serve; it finds pneumonia in every second picture."""
    folder = shutil.copytree(package, home / "predictor" / "packages" / version)
    judge = Diagnoser(Package.load(folder))
    middle = median(judge.diagnose(picture(number)).probability or 0 for number in range(9))
    amend_card(folder, thresholds=Thresholds(low=0.0, high=middle, operating=middle, chosen="By hand."))
    return folder


def champion(home: Path, package: Path) -> Settings:
    """A home in which a package serves, and MLflow does not."""
    install(home, package, "1")
    (home / "predictor" / "current").symlink_to("packages/1")
    return Settings(home=home, mlflow_uri=NO_MLFLOW)


@contextmanager
def running(home: Path, package: Path) -> Iterator[Chaos]:
    """A stack with a champion whose parts reach the store through a door; afterwards nothing of it is left."""
    settings = champion(home, package)
    with door(lambda: ports_of(home).s3) as made, _supervised(home, settings, made.port) as pids:
        environment = stack.env(settings, scanner=True)
        scanner = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{made.port}",
            region_name=environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=15),
        )
        chaos = Chaos(settings, made, scanner)
        yield chaos
        scanner.close()
        pids.update(family(stack.status(settings).pid or 0))
    assert not {pid for pid in pids if birth(pid)}
    assert all(is_free(port) for port in astuple(ports_of(home)))


@contextmanager
def _supervised(home: Path, settings: Settings, port: int) -> Iterator[set[int]]:
    made = Home.make(home)
    environment = base_environment() | settings_environment(settings) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # Attached, as a test's other stacks are: a run of tests that is killed leaves nothing behind.
    command = (sys.executable, "-m", "tests.support.chaos_supervisor", str(port), "--attached")
    with made.log("supervisor").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    pids: set[int] = set()
    try:
        eventually(lambda: stack.status(settings).running, 60, made.log("supervisor").read_text())
        for name in stack.ESSENTIAL:
            stack.wait(settings, name)
        yield pids
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()


def ports_of(home: Path) -> Ports:
    found = load_ports(Home(home))
    assert found
    return found
