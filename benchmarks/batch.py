"""Batches of uploads, as fast as the store takes them: `python -m benchmarks.batch` or with other sizes.

Each size runs in a stack of its own. A part whose cost an upload, or whose memory, grows with the size does not scale.
What the uploads leave behind is counted too: objects by bucket, and bytes of the store and of the worklist's database.
"""

import argparse
import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.uploads import WARM, burst, running
from laptop.services.broker_log import BrokerLog, log_file
from lungline.datasets.phantom import jpeg
from lungline.settings import Settings
from lungline.storage.s3 import Storage

SIZES = (100, 1_000, 10_000)
SLOWEST = 5.0
"""Results a second; a stack that is slower has failed."""
FASTER_THAN_ANY = 2_000.0
KEPT = ("sent_per_second", "saved_per_second", "lost", "p50_ms", "cpu_ms_an_upload", "resident_mb")


def measure(package: Path, size: int, images: Path) -> dict[str, Any]:
    """One batch: throughput, processor time an upload and memory by part, and what is stored."""
    with running(package) as settings:
        burst(settings, images, "warm", rate=5, count=WARM)
        before = stored(settings)
        metrics = burst(settings, images, "batch", rate=FASTER_THAN_ANY, count=size, patience=60 + size / SLOWEST)
        after = stored(settings)
    cost = {service: value for service, value in metrics["cpu_ms_an_upload"].items() if service != "load generator"}
    growth = {name: round((value - before[name]) / size, 2) for name, value in after.items()}
    return {name: metrics[name] for name in KEPT} | {
        "cpu_ms_in_all": round(sum(cost.values()), 1),
        "stored_an_upload": growth,
        "broker_objects": after["objects of the broker"],
    }


def stored(settings: Settings) -> dict[str, int]:
    """Objects by bucket, bytes of the store's and the database's files."""
    storage = Storage.from_settings(settings)
    buckets = (settings.uploads_bucket, settings.results_bucket, settings.research_bucket)
    counts = {f"objects in {bucket}": sum(1 for _ in storage.list(bucket)) for bucket in buckets}
    storage.close()
    with closing(BrokerLog(log_file(settings.home / "broker"))) as log:
        counts["objects of the broker"] = len(log.listed(""))
    return counts | {
        f"bytes of {folder}": sum(file.stat().st_blocks * 512 for file in (settings.home / folder).rglob("*"))
        for folder in ("store", "broker", "worklist")
    }


def main() -> None:
    """Measure each size, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--package", type=Path, help="a model package instead")
    arguments = parser.parse_args()
    metrics: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as images:
        package = arguments.package or networks.make(Path(folder), arguments.network, networks.UNSURE)
        for seed in range(16):
            (Path(images) / f"{seed}.jpeg").write_bytes(jpeg(seed, opacities=bool(seed % 2), size=224))
        for size in arguments.sizes:
            metrics[size] = measure(package, size, Path(images))
            print(f"{size}: {json.dumps(metrics[size])}", file=sys.stderr, flush=True)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
