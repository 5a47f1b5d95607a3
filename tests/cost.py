"""What decoding a file costs, measured in a process of its own so that nothing else counts."""

import json
import subprocess
import sys
from dataclasses import dataclass

_SCRIPT = """
import json, resource, sys, time
import imagecodecs, imagecodecs.imagecodecs
from imagecodecs import jpeg8_decode, jpegls_decode, jpeg2k_decode, packbits_decode
from lungline.images import Preparation
from lungline.errors import ImageRefused
from lungline import phantom
data = sys.stdin.buffer.read()
preparation = Preparation()
preparation.decode(phantom.jpeg(1, opacities=True))
found, least = "taken", 1e9
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    start = time.thread_time()
    try:
        preparation.decode(data)
    except ImageRefused as refused:
        found = refused.reason
    least = min(least, time.thread_time() - start)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"reason": found, "milliseconds": least * 1000, "megabytes": (after - before) / 1024}))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """`reason` is the refusal's, or "taken"; processor time of the best of three, and growth of peak memory."""

    reason: str
    milliseconds: float
    megabytes: float


def cost_of(data: bytes) -> Cost:
    """What decoding these bytes costs."""
    command = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    return Cost(**json.loads(done.stdout))
