"""All benchmarks of serving with their goals: `lungline bench`, or `python -m benchmarks.summary`.

Takes five to six minutes on two idle cores. A benchmark that fails is reported under `errors`, and the rest continues.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import decoding, goals, history, networks, predictor, start, uploads

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: turns of the contestants, seconds of the bursts, sizes of the history."""

    rounds: int = 4
    seconds: float = 2.0
    calm: float = 30.0
    storm: float = 60.0
    # A little more than the goal: the last result comes a moment after the last upload.
    rate: float = 122.0
    starts: int = 5
    sizes: tuple[int, ...] = history.SIZES


QUICK = Effort(rounds=1, seconds=0.5, calm=4, storm=4, starts=1, sizes=(200, 400))


def measure(package: Path | None = None, effort: Effort = Effort(), say: Say = print) -> dict[str, Any]:
    """The summary; without a package, one is built with the recipe's network and ImageNet weights, untrained."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lungline-bench-") as folder:
        made = package or networks.make(Path(folder), "recipe")
        summary: dict[str, Any] = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "model": str(package) if package else "the recipe's network, untrained; a tenth of images Unsure",
        }
        summary |= _run(_jobs(made, package, effort, say), say)
    summary["seconds"] = round(time.monotonic() - began)
    summary["goals"] = goals.evaluate(summary)
    return summary


def _jobs(made: Path, package: Path | None, effort: Effort, say: Say) -> dict[str, Callable[[], dict[str, Any]]]:
    turns = {"rounds": effort.rounds, "seconds": effort.seconds}

    def grown() -> dict[str, Any]:
        by_size = history.measure(effort.sizes, say=say)
        return {"sizes": by_size, "growth": goals.growth(by_size)}

    return {
        "decoding": decoding.measure,
        "start": lambda: start.measure(made, effort.starts),
        "predictor": lambda: predictor.measure("recipe", package=package, **turns, say=say),
        "predictor_small": lambda: predictor.measure("small", **turns, say=say),
        "uploads": lambda: uploads.measure(
            made, calm_seconds=effort.calm, storm_seconds=effort.storm, rate=effort.rate, say=say
        ),
        "history": grown,
    }


def _run(jobs: dict[str, Callable[[], dict[str, Any]]], say: Say) -> dict[str, Any]:
    results: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, job in jobs.items():
        say(f"[{name}]")
        began = time.monotonic()
        try:
            results[name] = job()
        except Exception as exc:  # noqa: BLE001 - a benchmark that fails must not stop the others
            errors[name] = f"{type(exc).__name__}: {exc}"
            say(f"{name} failed: {errors[name]}")
        say(f"[{name}] took {time.monotonic() - began:.0f} s")
    return results | {"errors": errors}


def _machine() -> dict[str, Any]:
    """The machine, and how busy it was: absolute times of a busy machine say little."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of goals: metric, goal, measured value, whether it is met."""
    words = {True: "yes", False: "NO", None: "not measured"}
    return [
        (goal["figure"], goal["goal"], "" if goal["found"] is None else f"{goal['found']:g}", words[goal["met"]])
        for goal in summary["goals"]
    ]


def contestants(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of contestants: network, name, images per second and per CPU second, latencies, settings."""
    return [
        (
            part["network"],
            name,
            *(f"{contestant[field]:g}" for field in ("per_second", "per_core", "cores_used", "p50_ms", "p99_ms")),
            contestant["settings"],
        )
        for part in (summary.get("predictor"), summary.get("predictor_small"))
        if part
        for name, contestant in part["contestants"].items()
    ]


if __name__ == "__main__":
    effort = QUICK if "--quick" in sys.argv else Effort()
    summary = measure(effort=effort, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(summary, indent=2))
