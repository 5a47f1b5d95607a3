"""Whether second opinions keep live uploads waiting: `python -m benchmarks.second_opinions`.

It starts a stack in a temporary home with a number of old uploads, and sends live uploads at a fixed rate: alone,
beside a version in the shadow, and beside the back-fill of old uploads. It does so in rounds, each in another order,
because a shared machine is not as fast in one minute as in the next. The latencies of all rounds count together; those
of each round say how far the machine itself varies.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.uploads import burst, running, timed_burst
from laptop import challengers
from laptop.rejudging import rejudge_uploads
from lungline.datasets.phantom import jpeg
from lungline.evaluation.disagreement import Comparison
from lungline.package.card import amend_card
from lungline.results import opinions
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.commands import compare_opinions

CHALLENGER = "2"
ALONE, SHADOW, BACK_FILL = "alone", "shadow", "back-fill"
OLD_RATE, WARM = 50.0, 10
START_SECONDS, LATE_SECONDS = 120.0, 60.0


def _percentile(latencies: list[float], share: float) -> float | None:
    return round(float(np.percentile(latencies, share)), 1) if latencies else None


@dataclass(slots=True)
class Phase:
    """What was measured of live uploads in one phase, over all rounds; latencies in milliseconds."""

    rounds: list[list[float]] = field(default_factory=list)
    lost: int = 0
    cpu: list[dict[str, float]] = field(default_factory=list)
    resident: dict[str, int] = field(default_factory=dict)

    def add(self, metrics: dict[str, Any], latencies: list[float]) -> None:
        """Another round."""
        self.rounds.append(latencies)
        self.lost += metrics["lost"] or 0
        self.cpu.append(metrics["cpu_ms_an_upload"])
        self.resident = metrics["resident_mb"]

    def latest(self) -> str:
        """p50 and p99 of the latest round."""
        return " and ".join(str(_percentile(self.rounds[-1], share)) for share in (50, 99))

    def summary(self) -> dict[str, Any]:
        """Percentiles of all rounds together and of each, CPU by service (the mean of rounds), memory at the end."""
        together = [latency for latencies in self.rounds for latency in latencies]
        return {
            "uploads": len(together),
            "lost": self.lost,
            **{f"p{share}_ms": _percentile(together, share) for share in (50, 90, 99)},
            **{f"p{share}_ms_by_round": [_percentile(each, share) for each in self.rounds] for share in (50, 99)},
            "cpu_ms_an_upload": {
                service: round(fmean(each[service] for each in self.cpu if service in each), 2)
                for service in self.cpu[-1]
            },
            "resident_mb": self.resident,
        }


class Bench:
    """A running stack with old uploads, and a second version in its registry."""

    def __init__(self, settings: Settings, package: Path, images: Path, old: int) -> None:
        """Upload the old ones, and wait for their results."""
        self._settings, self._images, self._old = settings, images, old
        _register(settings, package)
        burst(settings, images, "warm", rate=OLD_RATE, count=WARM)
        burst(settings, images, "old", rate=OLD_RATE, count=old)
        self._became_old = datetime.now(UTC)
        self._recorded = ""
        self.back_fills: list[dict[str, Any]] = []

    def live(self, name: str, rate: float, count: int) -> tuple[dict[str, Any], list[float]]:
        """Metrics and latencies of live uploads."""
        return timed_burst(self._settings, self._images, name, rate=rate, count=count)

    @contextmanager
    def shadow(self, wanted: int) -> Iterator[None]:
        """The second version in the shadow, until it has given as many opinions in all as are wanted."""
        self._recorded = challengers.start(self._settings, CHALLENGER, "shadow").recorded
        yield
        _settled(self._shadowed, wanted)
        challengers.stop(self._settings, "shadow")

    @contextmanager
    def back_fill(self, share: float, rate: float) -> Iterator[None]:
        """The back-fill of a share of the old uploads, from its first event until all of them are judged."""
        sends = threading.Event()
        wanted: dict[str, Any] = {"since": None, "until": self._became_old, "labels": frozenset()}
        wanted |= {"most": round(self._old * share), "rate": rate, "on_progress": lambda _: sends.set()}
        start = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(rejudge_uploads, self._settings, CHALLENGER, **wanted)
            sends.wait(START_SECONDS)
            yield
            report = going.result()
        self.back_fills.append(asdict(report) | {"seconds": round(time.monotonic() - start, 1)})

    def comparison(self, wanted: int) -> dict[str, Any]:
        """How the opinions in the shadow differ from the answers, once the worklist has as many as are wanted."""

        def compared() -> Comparison:
            return compare_opinions(self._settings, "shadow", self._recorded)

        _settled(lambda: compared().results, wanted)
        comparison = compared()
        return {"given": self._shadowed(), "share": comparison.share} | {
            name: getattr(comparison, name)
            for name in ("results", "different", "distance", "waited_p50", "waited_p99", "worked_mean")
        }

    def _shadowed(self) -> int:
        with closing(Storage.from_settings(self._settings)) as storage:
            return sum(1 for _ in opinions.places(storage, self._settings.results_bucket, "shadow", self._recorded))


def measure(
    package: Path,
    *,
    old: int,
    rate: float,
    seconds: float,
    rounds: int,
    rejudge_rate: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Latencies of live uploads in each phase, and what the second opinions came to."""
    count = round(rate * seconds)
    phases = {name: Phase() for name in (ALONE, SHADOW, BACK_FILL)}
    with running(package) as settings, tempfile.TemporaryDirectory() as folder:
        for seed in range(16):
            (Path(folder) / f"{seed}.jpeg").write_bytes(jpeg(seed, opacities=bool(seed % 2), size=224))
        say(f"{old} old uploads")
        bench = Bench(settings, package, Path(folder), old)
        for number in range(rounds):
            done = number + 1
            for name in _rotated(list(phases), number):
                with {
                    ALONE: nullcontext(),
                    SHADOW: bench.shadow(count * done),
                    BACK_FILL: bench.back_fill(done / rounds, rejudge_rate),
                }[name]:
                    phases[name].add(*bench.live(f"{name}-{number}", rate, count))
                say(f"round {done}, {count} live uploads, {name}: p50, p99 {phases[name].latest()} ms")
        comparison = bench.comparison(count * rounds)
    summaries = {name: phase.summary() for name, phase in phases.items()}
    alone = summaries[ALONE]["p99_ms"]
    against = {name: round(summaries[name]["p99_ms"] / alone, 3) for name in (SHADOW, BACK_FILL)}
    return summaries | {"p99_against_alone": against, "shadowed": comparison, "back_fills": bench.back_fills}


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]


def _register(settings: Settings, package: Path) -> None:
    """Store the same network as another version, where the registry has packages."""
    with tempfile.TemporaryDirectory() as temporary, closing(Storage.from_settings(settings)) as storage:
        folder = shutil.copytree(package, Path(temporary) / CHALLENGER)
        amend_card(folder, version=CHALLENGER)
        storage.ensure_buckets(settings.models_bucket)
        storage.upload_folder(folder, settings.models_bucket, f"{settings.model_name}/{CHALLENGER}")


def _settled(count: Callable[[], int], wanted: int) -> int:
    """A count once it has reached what is wanted, or does not reach it in time."""
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
    parser.add_argument("--seconds", type=float, default=12, help="of live uploads in each phase of a round")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--rejudge_rate", type=float, default=4, help="old uploads a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = measure(
            networks.make(Path(folder), arguments.network, networks.UNSURE),
            old=arguments.old,
            rate=arguments.rate,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            rejudge_rate=arguments.rejudge_rate,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
