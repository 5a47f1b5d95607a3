"""Whether second opinions keep live uploads waiting: `python -m benchmarks.second_opinions`.

It starts a stack in a temporary home with a number of old uploads, and sends live uploads at a fixed rate: alone,
beside a version in the shadow, alone again, and beside the back-fill of all old uploads. The second time alone says how
far the machine itself varies.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.uploads import burst, running
from laptop import challengers
from laptop.rejudging import rejudge_uploads
from lungline.datasets.phantom import jpeg
from lungline.package.card import amend_card
from lungline.results import opinions
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.commands import compare_opinions

CHALLENGER = "2"
OLD_RATE, WARM = 50.0, 10
KEPT = ("uploads", "lost", "p50_ms", "p99_ms", "cpu_ms_all_services", "cpu_ms_an_upload", "resident_mb")
LATE_SECONDS = 60.0


def measure(
    package: Path, *, old: int, rate: float, seconds: float, rejudge_rate: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Latencies of live uploads in each phase, in milliseconds, and what the second opinions came to."""
    count = round(rate * seconds)
    with running(package) as settings, tempfile.TemporaryDirectory() as folder:
        for seed in range(16):
            (Path(folder) / f"{seed}.jpeg").write_bytes(jpeg(seed, opacities=bool(seed % 2), size=224))
        _register(settings, package)

        def live(name: str) -> dict[str, Any]:
            say(f"{count} live uploads: {name}")
            measured = burst(settings, Path(folder), name, rate=rate, count=count)
            return {key: measured[key] for key in KEPT}

        burst(settings, Path(folder), "warm", rate=rate, count=WARM)
        say(f"{old} old uploads")
        burst(settings, Path(folder), "old", rate=OLD_RATE, count=old)
        alone = live("alone")
        shadow = _beside_shadow(settings, live)
        again = live("alone-again")
        back_fill = _beside_back_fill(settings, live, old, rejudge_rate)
    return {"alone": alone, "shadow": shadow, "alone_again": again, "back_fill": back_fill}


def _register(settings: Settings, package: Path) -> None:
    """Store the same network as another version, where the registry has packages."""
    with tempfile.TemporaryDirectory() as temporary, closing(Storage.from_settings(settings)) as storage:
        folder = shutil.copytree(package, Path(temporary) / CHALLENGER)
        amend_card(folder, version=CHALLENGER)
        storage.ensure_buckets(settings.models_bucket)
        storage.upload_folder(folder, settings.models_bucket, f"{settings.model_name}/{CHALLENGER}")


def _beside_shadow(settings: Settings, live: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    recorded = challengers.start(settings, CHALLENGER, "shadow").recorded
    measured = live("shadow")
    with closing(Storage.from_settings(settings)) as storage:
        given = _settled(
            lambda: sum(1 for _ in opinions.places(storage, settings.results_bucket, "shadow", recorded)),
            measured["uploads"],
        )
    comparison = _compared(settings, recorded, given)
    challengers.stop(settings, "shadow")
    return measured | {"second_opinions": given, "comparison": comparison}


def _compared(settings: Settings, recorded: str, given: int) -> dict[str, Any]:
    _settled(lambda: compare_opinions(settings, "shadow", recorded).results, given)
    comparison = compare_opinions(settings, "shadow", recorded)
    return {"share": comparison.share} | {
        name: getattr(comparison, name)
        for name in ("results", "different", "distance", "waited_p50", "waited_p99", "worked_mean")
    }


def _beside_back_fill(
    settings: Settings, live: Callable[[str], dict[str, Any]], old: int, rate: float
) -> dict[str, Any]:
    """The live uploads begin with the back-fill; it goes on afterwards until all old uploads are judged."""
    wanted: dict[str, Any] = {"since": None, "until": None, "labels": frozenset(), "most": old, "rate": rate}
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        going = pool.submit(rejudge_uploads, settings, CHALLENGER, **wanted)
        measured = live("back-fill")
        done = going.result()
    return measured | {"rejudged": asdict(done), "rejudge_seconds": round(time.monotonic() - began, 1)}


def _settled(count: Callable[[], int], wanted: int) -> int:
    """A count once it has reached what is wanted, or does not grow any more."""
    deadline = time.monotonic() + LATE_SECONDS
    while (reached := count()) < wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    return reached


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--old", type=int, default=1000, help="old uploads")
    parser.add_argument("--rate", type=float, default=5, help="live uploads a second")
    parser.add_argument("--seconds", type=float, default=120, help="of live uploads in each phase")
    parser.add_argument("--rejudge_rate", type=float, default=2, help="old uploads a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = measure(
            networks.make(Path(folder), arguments.network, networks.UNSURE),
            old=arguments.old,
            rate=arguments.rate,
            seconds=arguments.seconds,
            rejudge_rate=arguments.rejudge_rate,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
