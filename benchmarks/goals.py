"""The goals of serving, and which of them a summary meets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.predictor import ALL_CORES, FLOOR, KERAS, SAVED

Value = float | int | None


@dataclass(frozen=True, slots=True)
class Goal:
    """A metric, its path in a summary, and its limit: a minimum with `at_least`, else a maximum."""

    metric: str
    part: str
    path: tuple[str, ...]
    limit: float
    unit: str = ""
    at_least: bool = False

    def evaluate(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The goal with the measured value; `met` is None where there is none."""
        value = _at(summary, (self.part, *self.path))
        met = None if value is None else value >= self.limit if self.at_least else value <= self.limit
        sign = ">=" if self.at_least else "<="
        return {
            "figure": self.metric,
            "goal": f"{sign} {self.limit:g} {self.unit}".rstrip(),
            "found": value,
            "met": met,
        }


def _ratios(part: str, network: str) -> tuple[Goal, ...]:
    named = (
        (f"over FastAPI with keras.Model.predict, {network}", KERAS, 25.0),
        (f"over KServe with the SavedModel, {network}", SAVED, 3.0),
        (f"over the floor, per core used, {network}", FLOOR, 0.85),
        (f"over the floor on every core, {network}", ALL_CORES, 0.85),
    )
    return tuple(Goal(name, part, ("ratios", peer), limit, "times", at_least=True) for name, peer, limit in named)


GOALS = (
    *_ratios("predictor", "the recipe's network"),
    *_ratios("predictor_small", "a small network"),
    Goal("upload to saved result at 5 a second, p50", "uploads", ("calm", "p50_ms"), 17, "ms"),
    Goal("upload to saved result at 5 a second, p99", "uploads", ("calm", "p99_ms"), 30, "ms"),
    Goal("uploads saved a second, sustained", "uploads", ("storm", "saved_per_second"), 120, "/s", at_least=True),
    Goal("CPU of all services for an upload, sustained", "uploads", ("storm", "cpu_ms_all_services"), 14, "ms"),
    Goal("last result after the last upload", "uploads", ("storm", "last_result_after_last_upload_s"), 1, "s"),
    Goal("uploads lost", "uploads", ("storm", "lost"), 0),
    Goal("process start to first prediction", "start", ("start_to_first_prediction_s",), 0.4, "s"),
    Goal("resident memory of a worker after load", "start", ("resident_mb",), 120, "MB"),
    Goal("resident memory of a worker after the storm", "uploads", ("storm", "resident_mb", "predictor"), 200, "MB"),
    Goal("decode and prepare 3000 x 2500 JPEG", "decoding", ("decode_and_prepare_ms",), 30, "ms"),
    Goal("save a result at the last size over the first", "history", ("growth", "save_ms"), 2, "times"),
    Goal("find a result, likewise", "history", ("growth", "find_ms"), 2, "times"),
    Goal("list the latest 20, likewise", "history", ("growth", "latest_20_ms"), 2, "times"),
    Goal("reconcile one upload, likewise", "history", ("growth", "reconcile_us_an_upload"), 2, "times"),
)


def evaluate(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All goals with the values of a summary."""
    return [goal.evaluate(summary) for goal in GOALS]


def growth(history: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The ratio of each metric at the last size to that at the first."""
    first, *_, last = history.values() if len(history) > 1 else [*history.values()] * 2
    return {name: round(last[name] / first[name], 2) for name in first if first[name]}


def _at(value: Any, path: tuple[str, ...]) -> Value:
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value
