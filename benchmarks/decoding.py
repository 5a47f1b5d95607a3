"""Time to decode and prepare a large X-ray: `python -m benchmarks.decoding`.

3000 x 2500 pixels, as detectors make them; medians of wall clock and CPU, in milliseconds.
"""

import io
import json
import statistics
import time
from typing import Any

import numpy as np
from PIL import Image

from lungline.datasets.phantom import jpeg
from lungline.imaging.preparation import Preparation

WIDTH, HEIGHT = 3000, 2500
REPEATS = 15


def large_image() -> bytes:
    """An enlarged phantom with the noise of a detector: a smooth image would be a third of the work."""
    small = Image.open(io.BytesIO(jpeg(1, opacities=True, size=1000)))
    large = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    noisy = large + np.random.default_rng(1).normal(0, 4, large.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(size: int = 96) -> dict[str, Any]:
    """Medians for a network with input of `size` pixels."""
    preparation = Preparation(size=size, normalisation="equalise")
    data = large_image()
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(REPEATS):
        cpu_began, began = time.process_time(), time.perf_counter()
        preparation.apply(preparation.decode(data))
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - cpu_began) * 1000)
    return {
        "picture": f"{WIDTH} x {HEIGHT} JPEG, {len(data) / 2**20:.1f} MB",
        "decode_and_prepare_ms": round(statistics.median(wall), 2),
        "cpu_ms": round(statistics.median(cpu), 2),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
