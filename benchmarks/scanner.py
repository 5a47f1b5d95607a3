"""Uploads at set moments, from a process of its own: `python -m benchmarks.scanner` reads its arguments as JSON.

Moments are drawn once, one at random in each slot, so that nothing in the stack falls into step with them.
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
class Sent:
    """One upload; when it began and ended, in nanoseconds since 1970."""

    key: str
    etag: str
    began: int
    ended: int


def send(settings: Settings, pictures: Path, name: str, *, rate: float, count: int) -> tuple[list[Sent], float]:
    """Upload pictures of a folder under `name/`; what was sent, and the CPU seconds that this took here."""
    if not settings.s3_access_key or not settings.s3_secret_key:
        raise RuntimeError("The settings have no credentials for the store.")
    given = {
        "endpoint": settings.s3_endpoint,
        "access_key": settings.s3_access_key.get_secret_value(),
        "secret_key": settings.s3_secret_key.get_secret_value(),
        "bucket": settings.uploads_bucket,
        "pictures": str(pictures),
        "name": name,
        "rate": rate,
        "count": count,
    }
    command = [sys.executable, "-m", "benchmarks.scanner"]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    if done.returncode:
        raise RuntimeError(f"The scanner failed: {done.stderr.strip().splitlines()[-1]}")
    answer = json.loads(done.stdout)
    return [Sent(*one) for one in answer["sent"]], answer["cpu"]


def _run(given: dict[str, Any]) -> dict[str, Any]:
    storage = Storage(
        given["endpoint"], access_key=SecretStr(given["access_key"]), secret_key=SecretStr(given["secret_key"])
    )
    pictures = [path.read_bytes() for path in sorted(Path(given["pictures"]).iterdir())]
    dice = random.Random(1)
    moments = [(number + dice.random()) / given["rate"] for number in range(given["count"])]
    storage.put(given["bucket"], f"{given['name']}/first.txt", b"opens the way")  # refused as no image; not counted
    cpu, start = time.process_time(), time.perf_counter() + 0.1
    wait = threading.Event().wait

    def one(number: int) -> Sent:
        key = f"{given['name']}/{number:06d}.jpeg"
        began = time.time_ns()
        etag = storage.put(given["bucket"], key, pictures[number % len(pictures)], "image/jpeg")
        return Sent(key, etag, began, time.time_ns())

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = []
        for number, moment in enumerate(moments):
            wait(max(0.0, start + moment - time.perf_counter()))
            jobs.append(pool.submit(one, number))
        sent = [astuple(job.result()) for job in jobs]
    return {"sent": sent, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(_run(json.load(sys.stdin))))
