"""A laptop stack whose services reach the store through a flaky proxy."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from statistics import median
from typing import Any

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
from tests.support.chaos_run import Chaos, eventually, image
from tests.support.flaky_store import flaky_proxy
from tests.support.history.actors import Scanner
from tests.support.history.operations import Journal
from tests.support.history.receiver import notice_receiver
from tests.support.history.witness import witness
from tests.support.open_ports import family

# Nothing listens there: MLflow is down throughout.
NO_MLFLOW = "http://127.0.0.1:9"


def install(home: Path, package: Path, version: str) -> Path:
    """Copy a package into a home; its threshold makes every second image Pneumonia."""
    folder = shutil.copytree(package, home / "predictor" / "packages" / version)
    diagnoser = Diagnoser(Package.load(folder))
    middle = median(diagnoser.diagnose(image(number)).probability or 0 for number in range(9))
    amend_card(folder, thresholds=Thresholds(low=0.0, high=middle, operating=middle, chosen="By hand."))
    return folder


def champion(home: Path, package: Path, **others: Any) -> Settings:
    """The settings of a new home with a champion and without MLflow."""
    install(home, package, "1")
    (home / "predictor" / "current").symlink_to("packages/1")
    return Settings(home=home, mlflow_uri=NO_MLFLOW, **others)


@contextmanager
def running(home: Path, package: Path, **others: Any) -> Iterator[Chaos]:
    """A stack with a champion; afterwards none of its processes and ports is left."""
    journal = Journal()
    with notice_receiver(journal, home.parent) as rules, flaky_proxy(lambda: ports_of(home).s3) as proxy:
        settings = champion(home, package, worklist={"notice_rules": rules}, **others)
        with _supervised(home, settings, proxy.port) as supervisor:
            client = _scanner_client(stack.env(settings, scanner=True), proxy.port)
            scanner = Scanner(client, settings.uploads_bucket, journal)
            with witness(stack.connect(settings), journal) as topics:
                yield Chaos(settings, proxy, scanner, journal, topics, supervisor.kill)
            client.close()
            supervisor.note_family()
    assert not {pid for pid in supervisor.pids if birth(pid)}
    assert all(is_free(port) for port in astuple(ports_of(home)))


def _scanner_client(environment: dict[str, str], port: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=15),
    )


class _Supervisor:
    """The stack's supervisor, which can be killed with everything that it started."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings, self._port = settings, port
        self.pids: set[int] = set()
        """Of the processes that must not be there at the end."""
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        made = Home.make(self._settings.home)
        own = {"PYTHONPATH": str(Path(__file__).parents[2])}
        # Attached, as the other tests' stacks are, so that a killed test run leaves nothing behind.
        command = (sys.executable, "-m", "tests.support.chaos_supervisor", str(self._port), "--attached")
        with made.log("supervisor").open("ab") as log:
            return subprocess.Popen(
                command,
                env=base_environment() | settings_environment(self._settings) | own,
                cwd=made.path,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until the stack is ready."""
        log = Home(self._settings.home).log("supervisor")
        eventually(lambda: stack.status(self._settings).pid == self._process.pid, 60, f"see {log}")
        for name in stack.ESSENTIAL:
            stack.wait(self._settings, name)

    def note_family(self) -> None:
        """Remember the processes of now."""
        self.pids.update(family(self._process.pid))

    def kill(self) -> None:
        """Kill it, and start another, as a person does who finds the stack away."""
        self.note_family()
        self._process.kill()
        self._end()
        self._process = self._start()
        self.await_ready()

    def stop(self) -> None:
        """Stop everything."""
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


@contextmanager
def _supervised(home: Path, settings: Settings, port: int) -> Iterator[_Supervisor]:
    Home.make(home).log("supervisor").unlink(missing_ok=True)
    supervisor = _Supervisor(settings, port)
    try:
        supervisor.await_ready()
        yield supervisor
    finally:
        supervisor.stop()


def ports_of(home: Path) -> Ports:
    """The ports of a stack's home."""
    ports = load_ports(Home(home))
    assert ports
    return ports
