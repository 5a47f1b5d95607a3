"""Start time and memory of a predictor: `python -m benchmarks.start`.

From the start of the process to its first prediction, several times; then its resident memory after a second of load.
CPU seconds say the same on a busy machine.
"""

import base64
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import load, networks
from benchmarks.servers import free_port, started
from lungline.datasets.phantom import jpeg


def measure(package: Path, starts: int = 5) -> dict[str, Any]:
    """Medians over the starts; memory in MB."""
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(jpeg(n, opacities=True)).decode()}]}) for n in (0, 1)]
    module = ["serving", "--model_dir", str(package), "--http_port"]
    seconds: list[float] = []
    cpu: list[float] = []
    memory: list[float] = []
    for _ in range(starts):
        port = free_port()
        began = time.perf_counter()
        with started([*module, str(port)], port, "/v2/health/ready") as server:
            _predict(port, bodies[0])
            seconds.append(time.perf_counter() - began)
            cpu.append(server.cpu())
            load.generate(port, "/v1/models/pneumonia:predict", bodies, seconds=1, connections=load.CONNECTIONS)
            memory.append(server.megabytes())
    return {
        "starts": starts,
        "start_to_first_prediction_s": round(statistics.median(seconds), 3),
        "cpu_s": round(statistics.median(cpu), 3),
        "resident_mb": round(max(memory), 1),
    }


def _predict(port: int, body: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/models/pneumonia:predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"The predictor answered {response.status}.")


def imports() -> list[str]:
    """The slowest imports of a start, as lines of `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", "import serving.model_server, lungline.package"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[1:]
    return sorted(lines, key=lambda line: -int(line.split("|")[1]))[:25]


def main() -> None:
    """Measure, and print one JSON value; with --imports also what the start imports."""
    if "--imports" in sys.argv:
        print("\n".join(imports()), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(networks.make(Path(folder))), indent=2))


if __name__ == "__main__":
    main()
