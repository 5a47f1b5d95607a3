"""All figures of serving in one run, with their goals: `lungline bench`, or `python -m benchmarks.summary`.

Takes five to six minutes on two quiet cores. What fails is named under `errors`, and the rest goes on.
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
    """How long it may take: turns of the contestants, seconds of the bursts, sizes of the history."""

    rounds: int = 4
    seconds: float = 2.0
    calm: float = 30.0
    storm: float = 60.0
    # A little more than is asked for: the last result comes a moment after the last upload.
    rate: float = 102.0
    starts: int = 5
    sizes: tuple[int, ...] = history.SIZES


QUICK = Effort(rounds=1, seconds=0.5, calm=4, storm=4, starts=1, sizes=(200, 400))


def measure(package: Path | None = None, effort: Effort = Effort(), say: Say = print) -> dict[str, Any]:
    """The summary; without a package one is made with the recipe's network, from ImageNet weights and not trained."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lungline-bench-") as folder:
        made = package or networks.make(Path(folder), "recipe")
        summary: dict[str, Any] = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "model": str(package) if package else "the recipe's network, untrained; a tenth of pictures Unsure",
        }
        summary |= _parts(_jobs(made, package, effort, say), say)
    summary["seconds"] = round(time.monotonic() - began)
    summary["goals"] = goals.judge(summary)
    return summary


def _jobs(made: Path, package: Path | None, effort: Effort, say: Say) -> dict[str, Callable[[], dict[str, Any]]]:
    turns = {"rounds": effort.rounds, "seconds": effort.seconds}

    def grown() -> dict[str, Any]:
        found = history.measure(effort.sizes, say=say)
        return {"sizes": found, "growth": goals.growth(found)}

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


def _parts(jobs: dict[str, Callable[[], dict[str, Any]]], say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, job in jobs.items():
        say(f"[{name}]")
        began = time.monotonic()
        try:
            found[name] = job()
        except Exception as exc:  # noqa: BLE001 - one part that fails must not cost the figures of the others
            errors[name] = f"{type(exc).__name__}: {exc}"
            say(f"{name} failed: {errors[name]}")
        say(f"[{name}] took {time.monotonic() - began:.0f} s")
    return found | {"errors": errors}


def _machine() -> dict[str, Any]:
    """Where this ran, and how busy it was: absolute times of a busy machine say little."""
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
    """The table of goals: figure, goal, found, met."""
    words = {True: "yes", False: "NO", None: "not measured"}
    return [
        (one["figure"], one["goal"], "" if one["found"] is None else f"{one['found']:g}", words[one["met"]])
        for one in summary["goals"]
    ]


def contestants(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of contestants: network, name, pictures a second, for each CPU second, latencies, settings."""
    return [
        (
            part["network"],
            name,
            *(f"{one[field]:g}" for field in ("per_second", "per_core", "cores_used", "p50_ms", "p99_ms")),
            one["settings"],
        )
        for part in (summary.get("predictor"), summary.get("predictor_small"))
        if part
        for name, one in part["contestants"].items()
    ]


if __name__ == "__main__":
    effort = QUICK if "--quick" in sys.argv else Effort()
    found = measure(effort=effort, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=2))
