"""The laptop stack: start it, stop it, read its status, connect to it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection

from laptop.home.credentials import load_credentials
from laptop.home.disk import disk_fault, start_fault
from laptop.home.lock import is_locked
from laptop.home.models import champion_fault
from laptop.home.state import check_state
from laptop.services.gateway import GatewayService
from laptop.services.kafka_login import USER
from laptop.services.process import birth, tail
from laptop.services.prometheus import find_prometheus
from laptop.services.service import base_environment, s3_environment, settings_environment
from laptop.services.worklist import WorklistService
from laptop.supervision.assembly import Assembly, assembled
from laptop.supervision.status import ServiceStatus, StackStatus, read_status
from lungline.errors import StackError
from lungline.home import Home
from lungline.registry import mlflow_client
from lungline.service_state import State
from lungline.settings import Settings

# Not MLflow: it takes longer to start than all others together, and only training needs it.
ESSENTIAL = frozenset({"store", "broker", "bridge", "predictor", "trigger", "gateway"})
SETTLED: frozenset[State] = frozenset({"ready", "waiting for a champion", "external"})
START_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.03
# A predictor that takes longer than this to load its model will not load it; another champion can be promoted.
MODEL_SECONDS = 15.0
# The start has failed when a service has ended this often without being ready once.
FAILURES = 3

OnChange = Callable[[str, State], None]


def up(
    settings: Settings,
    on_change: OnChange | None = None,
    *,
    wait_for: Collection[str] = ESSENTIAL,
    attached: bool = False,
) -> StackStatus:
    """Start the stack in the background and wait until the services in `wait_for` are ready.

    `on_change` is called with each service's new state. An `attached` stack ends when this process ends, in whatever
    way. Raises StackError when a stack already runs in this home or a service does not start; then nothing is left
    running.
    """
    if settings.prometheus:
        find_prometheus()
    if fault := start_fault(settings.home):
        raise StackError(fault)
    home = Home.make(settings.home)
    if is_locked(home):
        raise StackError(f"A stack already runs in {home.path}: `lungline status` shows it.")
    check_state(home, settings)
    supervisor = _spawn(home, settings, attached=attached)
    try:
        return _await(home, wait_for, on_change, START_SECONDS, supervisor)
    except BaseException:
        supervisor.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(STOP_SECONDS)
        supervisor.kill()
        supervisor.wait()
        raise


def wait(
    settings: Settings, service: str, seconds: float = START_SECONDS, on_change: OnChange | None = None
) -> ServiceStatus:
    """Wait until a service of the running stack is ready. Raises StackError when it is not in time."""
    return _await(Home(settings.home.absolute()), {service}, on_change, seconds, None).service(service)


def down(settings: Settings) -> bool:
    """Stop the stack; False when none runs. Raises StackError when it does not end."""
    home = Home(settings.home.absolute())
    if not is_locked(home):
        return False
    status = read_status(home)
    if status.pid is None or birth(status.pid) != status.birth:
        raise StackError(f"A process that is not a supervisor of ours holds {home.file('lock')}.")
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(status.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_locked(home):
                _reap()
                return True
            time.sleep(POLL_SECONDS)
    raise StackError(f"The supervisor, process {status.pid}, does not end.")


def status(settings: Settings) -> StackStatus:
    """The status of the stack in the settings' home, running or not."""
    return read_status(Home(settings.home.absolute()))


def connect(settings: Settings) -> Settings:
    """The settings completed with addresses and credentials of the running stack.

    Addresses that the settings contain stay. Raises StackError when no stack runs in their home.
    """
    return _running(settings).settings


def env(settings: Settings, *, scanner: bool = False) -> dict[str, str]:
    """Environment variables with which S3, Kafka and MLflow clients, and Lungline itself, use the running stack.

    With `scanner` only those of an S3 client, with credentials that may only upload. Raises StackError.
    """
    assembly = _running(settings)
    connected = assembly.settings
    if not scanner:
        own = {name: value for name, value in settings_environment(connected).items() if name in _ADDRESSES}
        mlflow = mlflow_client.environment(connected)
        return s3_environment(connected) | mlflow | own | _kafka_files(connected) | _dicomweb(assembly)
    credentials = load_credentials(Home(connected.home))
    if "store" not in {service.name for service in assembly.services} or not credentials:
        raise StackError("The object store is external: ask its operator for a scanner's credentials.")
    return s3_environment(connected) | {
        "AWS_ACCESS_KEY_ID": credentials.scanner.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.scanner.secret_key,
    }


def _kafka_files(connected: Settings) -> dict[str, str]:
    """Where the login lies as a file: for clients with librdkafka (`kcat -F`), and for Apache Kafka's own tools."""
    if connected.kafka_username != USER:
        return {}
    folder = Home(connected.home).file("broker")
    return {"KAFKA_CONFIG": str(folder / "librdkafka.conf"), "KAFKA_PROPERTIES": str(folder / "client.properties")}


def _dicomweb(assembly: Assembly) -> dict[str, str]:
    """Where DICOMweb clients send X-rays, and where viewers search and retrieve them, each with its bearer token."""
    gateway = next(service for service in assembly.services if isinstance(service, GatewayService))
    worklist = next(service for service in assembly.services if isinstance(service, WorklistService))
    return {
        "DICOMWEB_URL": gateway.dicomweb,
        "DICOMWEB_TOKEN": gateway.token,
        "DICOMWEB_VIEWER_URL": worklist.dicomweb,
        "DICOMWEB_VIEWER_TOKEN": worklist.viewer_token,
    }


_ADDRESSES = {
    f"LUNGLINE_{name}"
    for name in (
        *("HOME", "S3_ENDPOINT", "S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
        *("KAFKA_BOOTSTRAP", "KAFKA_USERNAME", "KAFKA_PASSWORD", "KAFKA_CA"),
        *("MLFLOW_URI", "MLFLOW_USERNAME", "MLFLOW_PASSWORD", "PREDICTOR_URI", "WORKLIST__URI"),
    )
}


def _running(settings: Settings) -> Assembly:
    home = Home(settings.home.absolute())
    if not is_locked(home):
        raise StackError(f"No stack runs in {home.path}: `lungline up` starts one.")
    return assembled(home, settings)


def _spawn(home: Home, settings: Settings, *, attached: bool) -> "subprocess.Popen[bytes]":
    """Start the supervisor in a session of its own, so that Ctrl-C in this terminal does not end it."""
    settings = settings.model_copy(update={"home": home.path})
    argv = (sys.executable, "-P", "-m", "laptop.supervision.supervisor", *(["--attached"] if attached else []))
    with home.log("supervisor").open("wb") as log:
        supervisor = subprocess.Popen(
            argv,
            env=base_environment() | settings_environment(settings),
            cwd=home.path,
            stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _spawned.append(supervisor)
    return supervisor


# Kept until they end: without the object an attached supervisor's pipe would be closed.
_spawned: "list[subprocess.Popen[bytes]]" = []


def _reap() -> None:
    """Collect supervisors that this process started and that have ended, so that none remains as a zombie."""
    for supervisor in list(_spawned):
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(1)
            if supervisor.stdin:
                supervisor.stdin.close()
            _spawned.remove(supervisor)


def _await(
    home: Home,
    wait_for: Collection[str],
    on_change: OnChange | None,
    seconds: float,
    supervisor: "subprocess.Popen[bytes] | None",
) -> StackStatus:
    started = time.monotonic()
    # A model that the predictor refuses, as was said, does not get ready.
    model_seconds = 0.0 if champion_fault(home) else MODEL_SECONDS
    deadline = started + seconds
    states: dict[str, State] = {}
    while True:
        settled = SETTLED | ({"not ready"} if time.monotonic() > started + model_seconds else set())
        status = read_status(home)
        for service in status.services:
            if states.get(service.name) != service.state:
                states[service.name] = service.state
                if on_change:
                    on_change(service.name, service.state)
        if status.running and all(status.service(name).state in settled for name in wait_for):
            return status
        _require_progress(home, status, wait_for, time.monotonic() > deadline, supervisor)
        time.sleep(POLL_SECONDS)


def _require_progress(
    home: Home,
    status: StackStatus,
    wait_for: Collection[str],
    late: bool,
    supervisor: "subprocess.Popen[bytes] | None",
) -> None:
    """Raise StackError when the start has failed, or takes too long."""
    if fault := disk_fault(home.path):
        raise StackError(fault)
    ended = not status.running if supervisor is None else supervisor.poll() is not None
    if ended:
        raise StackError(f"The stack in {home.path} does not run: {tail(home.log('supervisor'), 1)}")
    for service in (status.service(name) for name in wait_for):
        if service.ready_seconds is None and service.restarts >= FAILURES:
            raise StackError(f"The {service.name} does not start: {service.note}")
        if late and service.state not in SETTLED:
            raise StackError(
                f"The {service.name} is not ready in time ({service.state}): {tail(home.log(service.name), 1)}"
            )
