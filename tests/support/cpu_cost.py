"""Measures what decoding files costs, in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
import json, pathlib, resource, sys, time
from imagecodecs import jpeg8_decode, jpegls_decode, jpeg2k_decode, packbits_decode
from lungline.imaging.preparation import Preparation
from lungline.errors import ImageRefused
from lungline.datasets import phantom
preparation, costs = Preparation(), {}
preparation.decode(phantom.jpeg(1, opacities=True))
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    data, outcome, least = path.read_bytes(), "accepted", 1e9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        start = time.thread_time()
        try:
            preparation.decode(data)
        except ImageRefused as refused:
            outcome = refused.reason
        least = min(least, time.thread_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    costs[path.name] = {"reason": outcome, "milliseconds": least * 1000, "megabytes": (after - before) / 1024}
print(json.dumps(costs))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """`reason` of the refusal, or "accepted"; the shortest CPU time of three runs, and the growth of peak memory."""

    reason: str
    milliseconds: float
    megabytes: float


def costs_of(files: dict[str, bytes], folder: Path) -> dict[str, Cost]:
    """Measure each file, the smallest first, so that none reuses the memory of a larger one."""
    for rank, name in enumerate(sorted(files, key=lambda name: len(files[name]))):
        (folder / f"{rank:03} {name}").write_bytes(files[name])
    command = [sys.executable, "-c", _SCRIPT, str(folder)]
    process = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return {name[4:]: Cost(**cost) for name, cost in json.loads(process.stdout).items()}
