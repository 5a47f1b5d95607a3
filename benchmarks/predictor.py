"""How fast the predictor is, beside its floor in the same run: `lungline bench`.

The floor is decode, prepare and LiteRT in a plain loop on one core: what no server can beat there. The predictor is
asked over HTTP (V1, base64) on kept connections. Ratios hold on a busy machine better than rates do.
"""

import base64
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lungline.diagnosis import Diagnoser
from lungline.errors import PackageError
from lungline.package import Package
from lungline.phantom import jpeg

SIDE = 224  # pixels
CONNECTIONS = 8
START_SECONDS = 60.0


def measure(folder: Path, port: int, seconds: float = 5.0) -> dict[str, Any]:
    """Measure the package in a folder; rates are pictures a second, times milliseconds."""
    pictures = [jpeg(seed, opacities=bool(seed % 2), size=SIDE) for seed in range(16)]
    floor = _floor(folder, pictures, seconds)
    with _predictor(folder, port) as started:
        spent = _ask(port, pictures, seconds)
    served = len(spent) / seconds
    return {
        "picture": f"{SIDE} px JPEG",
        "connections": CONNECTIONS,
        "floor_per_second": round(floor, 1),
        "predictor_per_second": round(served, 1),
        "ratio_to_floor": round(served / floor, 3),
        "p50_ms": round(float(np.percentile(spent, 50)), 2),
        "p99_ms": round(float(np.percentile(spent, 99)), 2),
        "start_to_first_prediction_s": round(started, 2),
    }


def _floor(folder: Path, pictures: list[bytes], seconds: float) -> float:
    diagnoser = Diagnoser(Package.load(folder))
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        diagnoser.diagnose(pictures[count % len(pictures)], heatmap=False)
        count += 1
    return count / seconds


@contextmanager
def _predictor(folder: Path, port: int) -> Iterator[float]:
    """A predictor of its own; gives the seconds from its start until it had predicted a test picture."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "serving", "--model_dir", str(folder), "--http_port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                raise PackageError(f"The predictor does not start with the package in {folder}.")
            threading.Event().wait(0.01)
        yield time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(10)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _ask(port: int, pictures: list[bytes], seconds: float) -> list[float]:
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(one).decode()}]}) for one in pictures]
    spent: list[float] = []
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=_load, args=(port, bodies, end, spent)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent


def _load(port: int, bodies: list[str], end: float, spent: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    number = 0
    while (began := time.perf_counter()) < end:
        connection.request(
            "POST", "/v1/models/pneumonia:predict", bodies[number % len(bodies)], {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise PackageError(f"The predictor answered {answer.status}.")
        spent.append((time.perf_counter() - began) * 1000)
        number += 1
    connection.close()
