"""Servers to measure, each in a process of its own."""

import contextlib
import http.client
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 90.0
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `start_seconds` is how long it took to become ready."""

    port: int
    process: psutil.Process
    start_seconds: float

    def cpu(self) -> float:
        """CPU seconds of the process so far."""
        return sum(self.process.cpu_times()[:2])

    def megabytes(self) -> float:
        """Resident memory in MB."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def started(module: list[str], port: int, ready: str) -> Iterator[Server]:
    """Run `python -m` with these arguments until the context ends. Raises RuntimeError with its log's last line."""
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        popen = subprocess.Popen([sys.executable, "-m", *module], stdout=log, stderr=log, cwd=ROOT)
        try:
            while status(port, ready) != 200:
                if popen.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["(empty)"]
                    raise RuntimeError(f"{module[0]} does not start; its log ends with: {lines[0]}")
                time.sleep(0.005)
            yield Server(port, psutil.Process(popen.pid), time.perf_counter() - began)
        finally:
            popen.terminate()
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def status(port: int, path: str) -> int | None:
    """The status of a GET; None when the server does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def free_port() -> int:
    """A port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each another one."""
    with contextlib.ExitStack() as opened:
        probes = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
