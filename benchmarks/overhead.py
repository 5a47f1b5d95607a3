"""The cost of metrics and traces in the predictor: `python -m benchmarks.overhead`.

Three predictors run at once, on one store: one without metrics, the one that is shipped, and that one with spans sent
to a collector. They predict uploads in turns, several rounds each, so that other load on the machine hits all of them.
Each ratio is the median over the rounds, against the predictor without metrics in the same round. CPU seconds of the
server's process say more than the clock on a busy machine.
"""

import argparse
import http.client
import json
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.servers import Server, free_port, started
from laptop.services.service import settings_environment
from laptop.services.store import running_store
from lungline.datasets.phantom import jpeg
from lungline.events.uploads import Upload, minio_record
from lungline.settings import Settings
from lungline.storage.s3 import Storage

BARE, WATCHED, TRACED = "unwatched", "metrics", "metrics and traces"
THREADS = 8


def measure(package: Path, rounds: int, uploads: int) -> dict[str, Any]:
    """Uploads per second and CPU per upload of each, and their ratios to the predictor without metrics."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-overhead-")))
        settings = stack.enter_context(running_store(folder / "home", Settings(home=folder / "home")))
        storage = Storage.from_settings(settings)
        collector = stack.enter_context(_collector())
        servers: dict[str, Server] = {}
        for name in (BARE, WATCHED, TRACED):
            os.environ.update(settings_environment(settings))
            os.environ["LUNGLINE_OTLP_ENDPOINT"] = collector if name == TRACED else ""
            module = "benchmarks.peers.unwatched" if name == BARE else "serving"
            port = free_port()
            command = [module, "--model_dir", str(package), "--http_port", str(port)]
            servers[name] = stack.enter_context(started(command, port, "/v2/health/ready"))
            _predict(servers[name], _put(storage, settings, f"warm/{name}", 30))
        rounds_of: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(rounds):
            order = list(servers) if number % 2 else list(servers)[::-1]
            for name in order:
                events = _put(storage, settings, f"{number}/{name}", uploads)
                rounds_of[name].append(_predict(servers[name], events))
    return {"rounds": rounds, "uploads_a_round": uploads} | {name: _summary(rounds_of, name) for name in rounds_of}


def _summary(rounds_of: dict[str, list[tuple[float, float]]], name: str) -> dict[str, float]:
    pairs = list(zip(rounds_of[name], rounds_of[BARE], strict=True))
    return {
        "uploads_a_second": round(statistics.median(rate for rate, _ in rounds_of[name]), 1),
        "cpu_ms_an_upload": round(1000 * statistics.median(cpu for _, cpu in rounds_of[name]), 3),
        "rate_to_unwatched": round(statistics.median(own[0] / bare[0] for own, bare in pairs), 3),
        "cpu_to_unwatched": round(statistics.median(own[1] / bare[1] for own, bare in pairs), 3),
    }


def _put(storage: Storage, settings: Settings, prefix: str, count: int) -> "queue.SimpleQueue[bytes]":
    """Store new uploads; returns their events."""
    events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for number in range(count):
        key = f"{prefix}/{number}.jpeg"
        etag = storage.put(settings.uploads_bucket, key, _IMAGES[number % len(_IMAGES)])
        events.put(json.dumps(minio_record(Upload(settings.uploads_bucket, key, etag=etag))).encode())
    return events


_IMAGES = [jpeg(seed, opacities=bool(seed % 2), size=224) for seed in range(8)]


def _predict(server: Server, events: "queue.SimpleQueue[bytes]") -> tuple[float, float]:
    """Send the events; returns uploads per second, and CPU seconds per upload."""
    count, cpu, began = events.qsize(), server.cpu(), time.perf_counter()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while True:
            try:
                body = events.get_nowait()
            except queue.Empty:
                connection.close()
                return
            connection.request("POST", "/v1/models/pneumonia:predict", body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"the predictor answered {response.status}")

    with ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(work) for _ in range(THREADS)]:
            job.result()
    return count / (time.perf_counter() - began), (server.cpu() - cpu) / count


@contextmanager
def _collector() -> Iterator[str]:
    """A collector that drops every span."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def main() -> None:
    """Measure, and print one JSON value."""
    parser = argparse.ArgumentParser(description="The cost of metrics and traces in the predictor.")
    parser.add_argument("--package", type=Path, required=True, help="folder of a model package")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--uploads", type=int, default=150, help="in each round")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.package, arguments.rounds, arguments.uploads), indent=2))


if __name__ == "__main__":
    main()
