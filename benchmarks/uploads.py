"""From upload to saved result through the whole stack, at low and high rates: `python -m benchmarks.uploads`.

It starts a stack in a temporary home: store, broker, bridge, trigger, predictor, worklist; without MLflow, which
uploads do not need. Uploads are sent at a fixed rate, whether earlier ones have results or not. A result counts as
saved when the store's change log has its record.
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
from lungline.results import record_store
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage

WARM = 10
# Late results are not lost: it waits while more arrive, up to a limit.
SILENT_SECONDS, PATIENCE_SECONDS = 20.0, 180.0
NOWHERE = "http://127.0.0.1:9"  # no MLflow


def measure(
    package: Path, *, calm_seconds: float = 20, storm_seconds: float = 60, rate: float = 100, say: Callable[[str], None]
) -> dict[str, Any]:
    """Latencies at 5 uploads per second, and throughput at `rate` per second; CPU by service for both."""
    images = [jpeg(seed, opacities=bool(seed % 2), size=224) for seed in range(16)]
    with running(package) as settings, tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            (Path(folder) / f"{number}.jpeg").write_bytes(image)
        say("the stack runs")
        burst(settings, Path(folder), "warm", rate=5, count=WARM)
        calm = burst(settings, Path(folder), "calm", rate=5, count=round(5 * calm_seconds))
        say(f"5 uploads per second: p50 {calm['p50_ms']} ms, p99 {calm['p99_ms']} ms, {calm['lost']} lost")
        storm = burst(settings, Path(folder), "storm", rate=rate, count=round(rate * storm_seconds))
        say(f"{rate:.0f} uploads per second: {storm['saved_per_second']} saved per second, {storm['lost']} lost")
    return {"package": package.name, "calm": calm, "storm": storm}


@contextmanager
def running(package: Path, values: Mapping[str, Any] | None = None) -> Iterator[Settings]:
    """A stack that serves a package, with more settings; it ends with the context, or with this process."""
    with tempfile.TemporaryDirectory(prefix="lungline-bench-") as folder:
        settings = load_settings({"home": Path(folder), "mlflow_uri": NOWHERE, **(values or {})})
        current = Home.make(settings.home).file("predictor", "current")
        current.parent.mkdir(parents=True, exist_ok=True)
        current.symlink_to(package.absolute())
        stack.up(settings, attached=True)
        try:
            stack.wait(settings, "predictor")
            yield stack.connect(settings)
        finally:
            stack.down(settings)


def burst(
    settings: Settings, images: Path, name: str, *, rate: float, count: int, patience: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    """Send `count` uploads at a rate, wait for their results, and return the metrics."""
    metrics, _ = timed_burst(settings, images, name, rate=rate, count=count, patience=patience)
    return metrics


def timed_burst(
    settings: Settings, images: Path, name: str, *, rate: float, count: int, patience: float = PATIENCE_SECONDS
) -> tuple[dict[str, Any], list[float]]:
    """As `burst`, with the milliseconds from upload to saved result of each upload that has one."""
    members = processes(settings)
    with _saved(settings, time.time_ns()) as saved:
        before = {service: cpu(process) for service, process in members.items()}
        sent, sender_cpu = scanner.send(settings, images, name, rate=rate, count=count)
        uploads = {_identity(settings, upload): upload for upload in sent}
        complete = _wait(uploads.keys(), saved, patience)
        saved_at = dict(saved)
    used = {service: cpu(process) - before[service] for service, process in members.items()}
    latencies = [(saved_at[name] - upload.began) / 1e6 for name, upload in uploads.items() if name in saved_at]
    began = [upload.began for upload in sent]
    first, last = min(began), max([saved_at[name] for name in uploads if name in saved_at], default=0)
    sending = (max(began) - first) / 1e9 + 1 / rate
    metrics = {
        "uploads": len(sent),
        "asked_per_second": rate,
        "sent_per_second": round(len(sent) / sending, 1),
        "saved_per_second": round(len(latencies) / max((last - first) / 1e9, sending), 1),
        "lost": len(uploads) - len(latencies) if complete else None,
        "last_result_after_last_upload_s": round((last - max(began)) / 1e9, 3),
        **{
            f"p{share}_ms": round(float(np.percentile(latencies, share)), 1) if latencies else None
            for share in (50, 99)
        },
        "store_put_p50_ms": round(statistics.median((upload.ended - upload.began) / 1e6 for upload in sent), 1),
        "cpu_ms_all_services": round(sum(used.values()) / count * 1000, 2),
        "cpu_ms_an_upload": {service: round(value / count * 1000, 2) for service, value in used.items()}
        | {"load generator": round(sender_cpu / count * 1000, 2)},
        "resident_mb": {service: round(_resident(process) / 2**20) for service, process in members.items()},
        "stages_ms": _stages(settings, list(uploads)[-200:]),
    }
    return metrics, latencies


def _wait(identities: Collection[str], saved: Mapping[str, int], patience: float) -> bool:
    """Wait for the results; False when more were still arriving at the end of the patience."""
    count, grown = 0, time.monotonic()
    end = grown + patience
    while len(saved) < len(identities) or any(identity not in saved for identity in identities):
        now = time.monotonic()
        if now > end:
            return False
        if len(saved) > count:
            count, grown = len(saved), now
        elif now - grown > SILENT_SECONDS:
            break
        time.sleep(0.05)
    return True


def _stages(settings: Settings, identities: list[str]) -> dict[str, float]:
    """Median milliseconds by stage, from the records; `to predictor` starts when the store has the object."""
    storage = Storage.from_settings(settings)
    records = [record for name in identities for record in record_store.find(storage, settings.results_bucket, name)]
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


def _identity(settings: Settings, sent: scanner.SentUpload) -> str:
    return Upload(settings.uploads_bucket, sent.key, etag=sent.etag).identity


@contextmanager
def _saved(settings: Settings, since: int) -> Iterator[dict[str, int]]:
    """When each record was saved, by its upload's identity, in nanoseconds since 1970; a thread fills it."""
    home = Home(settings.home)
    ports = load_ports(home)
    if ports is None:
        raise StorageUnavailable("The store has no ports.")
    certificates = Certificates.of(home.file("store", "config"))
    changes = Changes(ports.filer_grpc, certificates, settings.results_bucket, since)
    saved: dict[str, int] = {}

    def follow() -> None:
        try:
            for change in changes:
                place = change.upload.key.split("/") if change.upload else []
                if place[:1] == ["results"] and place[-1].endswith(".json"):  # no second opinion, no reading
                    saved.setdefault(place[2], change.moment)
        except StorageUnavailable:
            return  # closed

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield saved
    finally:
        changes.close()
        thread.join()


def processes(settings: Settings) -> dict[str, psutil.Process]:
    """The processes of a stack's services, by service."""
    running = stack.status(settings)
    return {service.name: psutil.Process(service.pid) for service in running.services if service.pid}


def cpu(process: psutil.Process) -> float:
    """Of the process and its children: the broker is a child of its gate."""
    return sum(sum(member.cpu_times()[:2]) for member in (process, *process.children(recursive=True)))


def _resident(process: psutil.Process) -> int:
    """Of the process and its children, in bytes: store and broker are children of their gates."""
    return sum(member.memory_info().rss for member in (process, *process.children(recursive=True)))


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--package", type=Path, help="a model package instead")
    parser.add_argument("--unsure", type=float, default=networks.UNSURE, help="share of images that are Unsure")
    parser.add_argument("--calm", type=float, default=20, help="seconds at 5 uploads per second")
    parser.add_argument("--storm", type=float, default=60, help="seconds at the rate")
    parser.add_argument("--rate", type=float, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = arguments.package or networks.make(Path(folder), arguments.network, arguments.unsure)
        metrics = measure(
            package,
            calm_seconds=arguments.calm,
            storm_seconds=arguments.storm,
            rate=arguments.rate,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
