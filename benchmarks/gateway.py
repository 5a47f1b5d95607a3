"""How many X-rays the DICOM gateway takes beside other servers: `python -m benchmarks.gateway`.

The gateway with its object store, Orthanc, and DCMTK's storescp, which only writes files, take turns on the same X-rays
from DCMTK's storescu, over one association and over eight at once. storescu invents new UIDs for each instance, and one
process of it is one association. Medians over the rounds, and ratios to Orthanc in the same round; CPU is that of all
processes of a server, the gateway's with and without the store. Needs dcmtk and orthanc.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.orthanc import running_orthanc
from benchmarks.round_trip import xray
from benchmarks.servers import free_port
from laptop.services.gateway import GatewayService
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.settings import Settings

GATEWAY, ORTHANC, STORESCP = "gateway", "Orthanc", "storescp"
ASSOCIATIONS = (1, 8)
WARM = 16
TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Target:
    """A server that takes X-rays; `processes` are its own, `others` those that it needs."""

    title: str
    port: int
    processes: Callable[[], list[psutil.Process]]
    others: Callable[[], list[psutil.Process]] = list


@dataclass(frozen=True, slots=True)
class Round:
    """Instances a second of one server in one round, and CPU milliseconds an instance."""

    per_second: float
    cpu_ms: float
    others_cpu_ms: float


def measure(*, rounds: int, instances: int, side: int) -> dict[str, Any]:
    """Instances a second of each server, by the number of associations, and the ratio to Orthanc."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-gateway-")))
        image = folder / "xray.dcm"
        xray(1, side).save_as(image, enforce_file_format=True)
        servers = {
            GATEWAY: stack.enter_context(_gateway(folder / "home")),
            ORTHANC: stack.enter_context(_orthanc(folder / "pacs")),
            STORESCP: stack.enter_context(_storescp(folder / "files")),
        }
        for server in servers.values():
            _send(server, image, WARM, 1)
        return {
            "instance_bytes": image.stat().st_size,
            **{
                f"{number} associations": _compare(servers, image, rounds, instances, number) for number in ASSOCIATIONS
            },
        }


def _compare(
    servers: dict[str, Target], image: Path, rounds: int, instances: int, associations: int
) -> dict[str, dict[str, float]]:
    took: dict[str, list[Round]] = {name: [] for name in servers}
    for number in range(rounds):
        order = list(servers) if number % 2 else list(servers)[::-1]
        for name in order:
            took[name].append(_round(servers[name], image, instances, associations))
    return {name: _summary(each, took[ORTHANC]) for name, each in took.items()}


def _summary(ours: list[Round], theirs: list[Round]) -> dict[str, float]:
    ratios = [each.per_second / orthanc.per_second for each, orthanc in zip(ours, theirs, strict=True)]
    return {
        "instances_per_second": round(statistics.median(each.per_second for each in ours), 1),
        "of_orthanc": round(statistics.median(ratios), 2),
        "cpu_ms": round(statistics.median(each.cpu_ms for each in ours), 1),
        "store_cpu_ms": round(statistics.median(each.others_cpu_ms for each in ours), 1),
    }


def _round(server: Target, image: Path, instances: int, associations: int) -> Round:
    before, others = _cpu(server.processes()), _cpu(server.others())
    began = time.perf_counter()
    _send(server, image, instances, associations)
    seconds = time.perf_counter() - began
    spent, lent = _cpu(server.processes()) - before, _cpu(server.others()) - others
    return Round(instances / seconds, 1000 * spent / instances, 1000 * lent / instances)


def _send(server: Target, image: Path, instances: int, associations: int) -> None:
    """Send over so many associations at once. Raises RuntimeError when an instance is not taken."""
    repeats = ["--repeat", str(instances // associations), "--invent-instance"]
    command = ["storescu", *repeats, "-aec", server.title, "127.0.0.1", str(server.port), str(image)]
    senders = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(associations)
    ]
    try:
        complaints = [sender.communicate(timeout=TIMEOUT_SECONDS)[1].decode() for sender in senders]
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
    if any(sender.returncode for sender in senders):
        raise RuntimeError(f"{server.title} does not take every instance: {''.join(complaints).strip()[:300]}")


def _cpu(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes, and of their children that have ended."""
    spent = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])
    return spent


@contextmanager
def _gateway(home: Path) -> Iterator[Target]:
    with running_store(home, Settings(home=home)) as settings:
        service = GatewayService.of(home, settings)
        store = [each for each in psutil.Process().children(recursive=True) if each.name() == "weed"]
        with running(service, service.home.log(service.name)) as process:
            ours = [psutil.Process(process.pid)]
            yield Target(settings.gateway.ae_title, service.ports.gateway, lambda: ours, lambda: store)


@contextmanager
def _orthanc(folder: Path) -> Iterator[Target]:
    with running_orthanc(folder) as server:
        ours = [each for each in psutil.Process().children() if each.name() == "Orthanc"]
        yield Target(server.title, server.dicom_port, lambda: ours)


@contextmanager
def _storescp(folder: Path) -> Iterator[Target]:
    """DCMTK's server with a process for each association, as it needs for several at once."""
    program = shutil.which("storescp")
    if program is None:
        raise FileNotFoundError("storescp is not installed (apt-get install dcmtk)")
    folder.mkdir()
    port = free_port()
    command = [program, "--fork", "-od", str(folder), "-aet", "STORESCP", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await(port, process)
            yield Target("STORESCP", port, lambda: [psutil.Process(process.pid)])
        finally:
            process.terminate()


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 10
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("storescp does not start.")
        time.sleep(0.05)


def main() -> None:
    """Measure, and print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=160, help="a round, a multiple of 8")
    parser.add_argument("--side", type=int, default=1024, help="of the X-rays, in pixels: a multiple of 256")
    arguments = parser.parse_args()
    print(json.dumps(measure(rounds=arguments.rounds, instances=arguments.instances, side=arguments.side), indent=2))


if __name__ == "__main__":
    main()
