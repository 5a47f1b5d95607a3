"""What being watched costs the predictor: `python -m benchmarks.overhead`.

Three predictors are up at once, on one store: one whose figures are taken out, the one that is shipped, and that one
with spans going to a collector. They judge uploads in turns, several rounds each, so that whatever else the machine
does hits them all. Each ratio is the median over the rounds, each round beside the unwatched one's in the same round;
CPU seconds of the server's own process say more than the clock on a machine that has other things to do.
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
    """Uploads a second and CPU seconds an upload of each, and their ratios to the unwatched one's."""
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
            _judge(servers[name], _put(storage, settings, f"warm/{name}", 30))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(rounds):
            order = list(servers) if number % 2 else list(servers)[::-1]
            for name in order:
                events = _put(storage, settings, f"{number}/{name}", uploads)
                found[name].append(_judge(servers[name], events))
    return {"rounds": rounds, "uploads_a_round": uploads} | {name: _summary(found, name) for name in found}


def _summary(found: dict[str, list[tuple[float, float]]], name: str) -> dict[str, float]:
    pairs = list(zip(found[name], found[BARE], strict=True))
    return {
        "uploads_a_second": round(statistics.median(rate for rate, _ in found[name]), 1),
        "cpu_ms_an_upload": round(1000 * statistics.median(cpu for _, cpu in found[name]), 3),
        "rate_to_unwatched": round(statistics.median(own[0] / bare[0] for own, bare in pairs), 3),
        "cpu_to_unwatched": round(statistics.median(own[1] / bare[1] for own, bare in pairs), 3),
    }


def _put(storage: Storage, settings: Settings, prefix: str, count: int) -> "queue.SimpleQueue[bytes]":
    """Fresh uploads, as events."""
    events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for number in range(count):
        key = f"{prefix}/{number}.jpeg"
        etag = storage.put(settings.uploads_bucket, key, _PICTURES[number % len(_PICTURES)])
        events.put(json.dumps(minio_record(Upload(settings.uploads_bucket, key, etag=etag))).encode())
    return events


_PICTURES = [jpeg(seed, opacities=bool(seed % 2), size=224) for seed in range(8)]


def _judge(server: Server, events: "queue.SimpleQueue[bytes]") -> tuple[float, float]:
    """Uploads a second, and CPU seconds an upload."""
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
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the predictor answered {answer.status}")

    with ThreadPoolExecutor(THREADS) as pool:
        for one in [pool.submit(work) for _ in range(THREADS)]:
            one.result()
    return count / (time.perf_counter() - began), (server.cpu() - cpu) / count


@contextmanager
def _collector() -> Iterator[str]:
    """Something that takes spans and throws them away."""

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
    """Measure, and print what was found as JSON."""
    parser = argparse.ArgumentParser(description="What being watched costs the predictor.")
    parser.add_argument("--package", type=Path, required=True, help="folder of a model package")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--uploads", type=int, default=150, help="in a round")
    given = parser.parse_args()
    print(json.dumps(measure(given.package, given.rounds, given.uploads), indent=2))


if __name__ == "__main__":
    main()
