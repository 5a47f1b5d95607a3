"""A cheap load generator: one thread, raw sockets, requests built beforehand.

It shares the cores with the server. Each connection sends the next image when the response to the last has arrived.
It runs as a process of its own: `python -m benchmarks.load` reads its arguments as JSON and prints metrics as JSON.
"""

import json
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """Metrics of a round: responses, seconds, the generator's own CPU seconds, and latencies in milliseconds."""

    count: int
    failed: int
    seconds: float
    cpu: float
    p50: float
    p99: float


class _Connection:
    """One connection; `sent` is when its current request was sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self.response = b""

    def send(self, request: bytes) -> None:
        self.response = b""
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The status, once the whole response has arrived."""
        chunk = self.socket.recv(262144)
        if not chunk:
            raise ConnectionError("the server closed a connection")
        self.response += chunk
        head = self.response.find(b"\r\n\r\n")
        if head < 0:
            return None
        at = self.response.lower().find(b"content-length:", 0, head)
        length = int(self.response[at + 15 : self.response.index(b"\r\n", at)])
        return int(self.response[9:12]) if len(self.response) >= head + 4 + length else None


def generate(port: int, path: str, bodies: list[str], *, seconds: float, connections: int) -> LoadMetrics:
    """Keep `connections` POST requests of JSON in flight for this many seconds, from a process of its own."""
    arguments = {"port": port, "path": path, "bodies": bodies, "seconds": seconds, "connections": connections}
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(
        command,
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"The load generator failed: {done.stderr.strip().splitlines()[-1]}")
    return LoadMetrics(**json.loads(done.stdout))


def _run(port: int, path: str, bodies: list[str], *, seconds: float, connections: int) -> LoadMetrics:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode() for body in bodies]
    selector = selectors.DefaultSelector()
    spent: list[float] = []
    failed = number = 0
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(connections):
        connection = _Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(requests[number % len(requests)])
        number += 1
    waiting = connections
    while waiting:
        for key, _ in selector.select(120):
            connection: Any = key.data
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            spent.append(now - connection.sent)
            failed += status != 200
            if now - began > seconds:
                waiting -= 1
                selector.unregister(connection.socket)
                continue
            connection.send(requests[number % len(requests)])
            number += 1
    used, took = time.process_time() - cpu, time.perf_counter() - began
    spent.sort()
    return LoadMetrics(len(spent), failed, took, used, _at(spent, 0.5), _at(spent, 0.99))


def _at(spent: list[float], share: float) -> float:
    return round(spent[min(len(spent) - 1, int(len(spent) * share))] * 1000, 3) if spent else float("nan")


if __name__ == "__main__":
    print(json.dumps(asdict(_run(**json.load(sys.stdin)))))
