"""What a stack costs on which nothing happens: `python -m benchmarks.idle --package FOLDER`.

CPU milliseconds and wake-ups a second of each service with its children, after a pause in which the start's own work
ends. A wake-up is a voluntary change of thread: CPU says little on a machine whose clock frequency changes with load.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import networks, uploads

SETTLING_SECONDS = 8.0


def measure(package: Path, seconds: float) -> dict[str, dict[str, float]]:
    """CPU milliseconds and wake-ups a second, by service."""
    with uploads.running(package) as settings:
        time.sleep(SETTLING_SECONDS)
        members = uploads.processes(settings)
        before = {service: _spent(process) for service, process in members.items()}
        time.sleep(seconds)
        after = {service: _spent(process) for service, process in members.items()}
    return {
        service: {
            "cpu_ms_a_second": round((after[service][0] - cpu) / seconds * 1000, 1),
            "wake_ups_a_second": round((after[service][1] - wake_ups) / seconds, 1),
        }
        for service, (cpu, wake_ups) in before.items()
    }


def _spent(process: psutil.Process) -> tuple[float, int]:
    family = (process, *process.children(recursive=True))
    return uploads.cpu(process), sum(_wake_ups(member.pid) for member in family)


def _wake_ups(pid: int) -> int:
    """Of all threads: the process's own number is that of its first thread."""
    number = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread has just ended
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            number += int(lines["voluntary_ctxt_switches"])
    return number


def main() -> None:
    """Measure, and print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="a model package; by default one with the recipe's network")
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package or networks.make(Path(folder))
        services: dict[str, Any] = measure(package, arguments.seconds)
    print(json.dumps({"load": os.getloadavg()[0], "services": services}, indent=2))


if __name__ == "__main__":
    main()
