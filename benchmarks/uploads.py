"""From upload to saved result through the whole stack, calm and in a storm: `python -m benchmarks.uploads`.

A stack of its own in a temporary home: store, broker, bridge, trigger, predictor, worklist; no MLflow, which uploads
never meet. Uploads come at set moments, whether earlier ones have their results or not. A result is saved when the
store's own log of changes has its record.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import networks, scanner
from eventing.seaweedfs_log import Changes
from eventing.seaweedfs_tls import Certificates
from laptop import stack
from laptop.home.ports import load_ports
from lungline.datasets.phantom import jpeg
from lungline.errors import StorageUnavailable
from lungline.events.uploads import Upload
from lungline.home import Home
from lungline.results import records as results
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage

WARM = 10
# Results that are late are not lost: it waits while more come, but not for ever.
SILENT_SECONDS, PATIENT_SECONDS = 20.0, 180.0
NOWHERE = "http://127.0.0.1:9"  # no MLflow


def measure(
    package: Path, *, calm_seconds: float = 20, storm_seconds: float = 60, rate: float = 100, say: Callable[[str], None]
) -> dict[str, Any]:
    """Latencies at 5 uploads a second, and what becomes of `rate` a second; CPU by part for both."""
    pictures = [jpeg(seed, opacities=bool(seed % 2), size=224) for seed in range(16)]
    with running(package) as settings, tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            (Path(folder) / f"{number}.jpeg").write_bytes(picture)
        say("the stack is up")
        burst(settings, Path(folder), "warm", rate=5, count=WARM)
        calm = burst(settings, Path(folder), "calm", rate=5, count=round(5 * calm_seconds))
        say(f"5 uploads a second: p50 {calm['p50_ms']} ms, p99 {calm['p99_ms']} ms, {calm['lost']} lost")
        storm = burst(settings, Path(folder), "storm", rate=rate, count=round(rate * storm_seconds))
        say(f"{rate:.0f} uploads a second: {storm['saved_per_second']} saved a second, {storm['lost']} lost")
    return {"package": package.name, "calm": calm, "storm": storm}


@contextmanager
def running(package: Path) -> Iterator[Settings]:
    """A stack that serves a package; ends with the context, or with this process."""
    with tempfile.TemporaryDirectory(prefix="lungline-bench-") as folder:
        settings = load_settings({"home": Path(folder), "mlflow_uri": NOWHERE})
        current = Home.make(settings.home).file("predictor", "current")
        current.parent.mkdir(parents=True, exist_ok=True)
        current.symlink_to(package.absolute())
        stack.up(settings, attached=True)
        try:
            stack.wait(settings, "predictor")
            yield stack.connect(settings)
        finally:
            stack.down(settings)


def burst(settings: Settings, pictures: Path, name: str, *, rate: float, count: int) -> dict[str, Any]:
    """Upload so many at a rate, wait for the results, and say what became of them."""
    processes = _processes(settings)
    with _saved(settings, time.time_ns()) as saved:
        before = {part: _cpu(process) for part, process in processes.items()}
        sent, sender_cpu = scanner.send(settings, pictures, name, rate=rate, count=count)
        wanted = {_identity(settings, one): one for one in sent}
        all_told = _wait(wanted.keys(), saved)
        found = dict(saved)
    used = {part: _cpu(process) - before[part] for part, process in processes.items()}
    late = [(found[one] - wanted[one].began) / 1e6 for one in wanted if one in found]
    first, last = min(one.began for one in sent), max([found[one] for one in wanted if one in found], default=0)
    sending = (max(one.began for one in sent) - first) / 1e9 + 1 / rate
    return {
        "uploads": len(sent),
        "asked_per_second": rate,
        "sent_per_second": round(len(sent) / sending, 1),
        "saved_per_second": round(len(late) / max((last - first) / 1e9, sending), 1),
        "lost": len(wanted) - len(late) if all_told else None,
        "last_result_after_last_upload_s": round((last - max(one.began for one in sent)) / 1e9, 3),
        **{f"p{share}_ms": round(float(np.percentile(late, share)), 1) if late else None for share in (50, 99)},
        "store_put_p50_ms": round(statistics.median((one.ended - one.began) / 1e6 for one in sent), 1),
        "cpu_ms_an_upload": {part: round(value / count * 1000, 2) for part, value in used.items()}
        | {"load generator": round(sender_cpu / count * 1000, 2)},
        "resident_mb": {part: round(process.memory_info().rss / 2**20) for part, process in processes.items()},
        "stages_ms": _stages(settings, list(wanted)[-200:]),
    }


def _wait(wanted: Collection[str], saved: Mapping[str, int]) -> bool:
    """Wait for the results; False when they still came when patience ended."""
    known, grown = 0, time.monotonic()
    end = grown + PATIENT_SECONDS
    while len(saved) < len(wanted) or any(one not in saved for one in wanted):
        now = time.monotonic()
        if now > end:
            return False
        if len(saved) > known:
            known, grown = len(saved), now
        elif now - grown > SILENT_SECONDS:
            break
        time.sleep(0.05)
    return True


def _stages(settings: Settings, identities: list[str]) -> dict[str, float]:
    """Median milliseconds by stage, as the records tell; `to predictor` counts from when the store had the object."""
    storage = Storage.from_settings(settings)
    records = [one for name in identities for one in results.find(storage, settings.results_bucket, name)]
    stages: dict[str, list[float]] = {}
    for record in records:
        times = record.times
        spans = {"to predictor": _span(times.uploaded, times.received), **record.timings}
        spans["in predictor"] = _span(times.received, times.done)
        for stage, value in spans.items():
            stages.setdefault(stage, []).append(value)
    storage.close()
    unsure = sum(record.label == "Unsure" for record in records)
    return {stage: round(statistics.median(values), 2) for stage, values in stages.items()} | {
        "share unsure": round(unsure / max(1, len(records)), 3)
    }


def _span(start: datetime | None, end: datetime) -> float:
    return (end - start).total_seconds() * 1000 if start else float("nan")


def _identity(settings: Settings, sent: scanner.Sent) -> str:
    return Upload(settings.uploads_bucket, sent.key, etag=sent.etag).identity


@contextmanager
def _saved(settings: Settings, since: int) -> Iterator[dict[str, int]]:
    """When each record was saved, by its upload's identity, in nanoseconds since 1970; fills up by itself."""
    home = Home(settings.home)
    ports = load_ports(home)
    if ports is None:
        raise StorageUnavailable("The store has no ports.")
    certificates = Certificates.of(home.file("store", "config"))
    changes = Changes(ports.filer_grpc, certificates, settings.results_bucket, since)
    found: dict[str, int] = {}

    def follow() -> None:
        try:
            for change in changes:
                if change.upload and change.upload.key.endswith(".json"):
                    found.setdefault(change.upload.key.split("/")[2], change.moment)
        except StorageUnavailable:
            return  # closed

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield found
    finally:
        changes.close()
        thread.join()


def _processes(settings: Settings) -> dict[str, psutil.Process]:
    running = stack.status(settings)
    return {part.name: psutil.Process(part.pid) for part in running.services if part.pid}


def _cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--package", type=Path, help="a model package instead")
    parser.add_argument("--unsure", type=float, default=networks.UNSURE, help="share of pictures that are Unsure")
    parser.add_argument("--calm", type=float, default=20, help="seconds at 5 uploads a second")
    parser.add_argument("--storm", type=float, default=60, help="seconds at the rate")
    parser.add_argument("--rate", type=float, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = given.package or networks.make(Path(folder), given.network, given.unsure)
        found = measure(
            package,
            calm_seconds=given.calm,
            storm_seconds=given.storm,
            rate=given.rate,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
