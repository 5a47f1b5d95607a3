"""Uploads at a given rate, from a process of its own: `python -m benchmarks.scanner` reads its arguments as JSON.

The times are drawn once, one at random in each slot, so that nothing in the stack synchronises with them.
"""

import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lungline.settings import Settings
from lungline.storage.s3 import Storage

THREADS = 16


@dataclass(frozen=True, slots=True)
class SentUpload:
    """One upload; when it began and ended, in nanoseconds since 1970."""

    key: str
    etag: str
    began: int
    ended: int


def send(settings: Settings, images: Path, name: str, *, rate: float, count: int) -> tuple[list[SentUpload], float]:
    """Upload the images of a folder under `name/`; returns the uploads and the CPU seconds of the sender."""
    if not settings.s3_access_key or not settings.s3_secret_key:
        raise RuntimeError("The settings have no credentials for the store.")
    arguments = {
        "endpoint": settings.s3_endpoint,
        "access_key": settings.s3_access_key.get_secret_value(),
        "secret_key": settings.s3_secret_key.get_secret_value(),
        "bucket": settings.uploads_bucket,
        "images": str(images),
        "name": name,
        "rate": rate,
        "count": count,
    }
    command = [sys.executable, "-m", "benchmarks.scanner"]
    done = subprocess.run(
        command,
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"The scanner failed: {done.stderr.strip().splitlines()[-1]}")
    report = json.loads(done.stdout)
    return [SentUpload(*fields) for fields in report["sent"]], report["cpu"]


def _run(arguments: dict[str, Any]) -> dict[str, Any]:
    storage = Storage(
        arguments["endpoint"],
        access_key=SecretStr(arguments["access_key"]),
        secret_key=SecretStr(arguments["secret_key"]),
    )
    images = [path.read_bytes() for path in sorted(Path(arguments["images"]).iterdir())]
    dice = random.Random(1)
    moments = [(number + dice.random()) / arguments["rate"] for number in range(arguments["count"])]
    storage.put(
        arguments["bucket"], f"{arguments['name']}/first.txt", b"warm-up"
    )  # refused as no image, and not counted
    cpu, start = time.process_time(), time.perf_counter() + 0.1
    wait = threading.Event().wait

    def upload(number: int) -> SentUpload:
        key = f"{arguments['name']}/{number:06d}.jpeg"
        began = time.time_ns()
        etag = storage.put(arguments["bucket"], key, images[number % len(images)], "image/jpeg")
        return SentUpload(key, etag, began, time.time_ns())

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = []
        for number, moment in enumerate(moments):
            wait(max(0.0, start + moment - time.perf_counter()))
            jobs.append(pool.submit(upload, number))
        sent = [astuple(job.result()) for job in jobs]
    return {"sent": sent, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(_run(json.load(sys.stdin))))
