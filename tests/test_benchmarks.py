"""The benchmarks run, and their arithmetic is right; no speed is asserted."""

from typing import Any

import psutil
import pytest

from benchmarks import goals, history, load, predictor, summary
from benchmarks.predictor import FLOOR, KERAS, OURS, Round
from benchmarks.servers import free_port, started
from tests.support.tiny_package import write_tiny_package


def ignore(_: str) -> None:
    """Drop the progress."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short measurement of a real predictor."""
    folder = tmp_path_factory.mktemp("benchmarks") / "package"
    write_tiny_package(folder)
    return predictor.measure(package=folder, rounds=1, seconds=0.2, connections=2, peers=False, say=ignore)


def test_a_real_predictor_is_measured_beside_its_floor(measured: dict[str, Any]) -> None:
    assert measured["failed"] == {}
    assert set(measured["contestants"]) == {OURS, FLOOR}
    for contestant in measured["contestants"].values():
        assert contestant["per_second"] > 0
        assert contestant["per_core"] > 0
        assert contestant["settings"]
    assert measured["ratios"][FLOOR] > 0


def test_the_table_of_contestants_names_each_with_its_settings(measured: dict[str, Any]) -> None:
    rows = summary.contestants({"predictor": measured})
    assert {row[1] for row in rows} == {OURS, FLOOR}
    assert all(len(row) == 8 and "LiteRT" in row[-1] for row in rows)


def test_ratios_are_medians_over_the_rounds() -> None:
    """Against the floor they are per core."""

    def turn(rate: float, per_core: float) -> Round:
        return Round(rate, per_core, 1.0, 1.0, 1.0, 0.0)

    results = {
        OURS: [turn(100, 70), turn(300, 60), turn(200, 80)],
        KERAS: [turn(1, 1), turn(2, 1), turn(4, 1)],
        FLOOR: [turn(1, 100), turn(1, 100), turn(1, 100)],
    }
    cores = psutil.cpu_count()
    assert cores
    on_every_core = pytest.approx(200 / cores, abs=0.001)
    assert predictor.ratios(results) == {KERAS: 100, FLOOR: 0.7, predictor.ALL_CORES: on_every_core}


def test_goals_are_met_missed_or_not_measured() -> None:
    measured = {
        "predictor": {"ratios": {KERAS: 25.0, FLOOR: 0.69}},
        "uploads": {"calm": {"p50_ms": 17.0}, "storm": {"lost": 1}},
        "errors": {},
    }
    evaluated = {goal["figure"]: goal for goal in goals.evaluate(measured)}
    assert evaluated["over FastAPI with keras.Model.predict, the recipe's network"]["met"] is True
    assert evaluated["over the floor, per core used, the recipe's network"]["met"] is False
    assert evaluated["upload to saved result at 5 a second, p50"]["met"] is True
    assert evaluated["uploads lost"] == {"figure": "uploads lost", "goal": "<= 0", "found": 1, "met": False}
    assert evaluated["process start to first prediction"]["met"] is None
    rows = summary.rows({"goals": list(evaluated.values())})
    assert ("uploads lost", "<= 0", "1", "NO") in rows


def test_growth_compares_the_last_size_with_the_first() -> None:
    assert goals.growth({"10": {"find_ms": 2.0}, "20": {"find_ms": 9.0}, "30": {"find_ms": 3.0}}) == {"find_ms": 1.5}
    assert goals.growth({"10": {"find_ms": 2.0}}) == {"find_ms": 1.0}


def test_a_benchmark_that_fails_does_not_stop_the_others() -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("nothing is there")

    results = summary._run({"start": fails, "decoding": lambda: {"cpu_ms": 1.0}}, ignore)  # noqa: SLF001 - the seam
    assert results == {"decoding": {"cpu_ms": 1.0}, "errors": {"start": "RuntimeError: nothing is there"}}


def test_a_server_that_does_not_start_says_why() -> None:
    port = free_port()
    with (
        pytest.raises(RuntimeError, match=r"No module named benchmarks\.nobody"),
        started(["benchmarks.nobody"], port, "/"),
    ):
        pass


def test_a_load_generator_without_a_server_says_why() -> None:
    with pytest.raises(RuntimeError, match="refused"):
        load.generate(free_port(), "/", ["{}"], seconds=0.1, connections=1)


def test_history_is_measured_on_a_real_store() -> None:
    by_size = history.measure((40, 60), say=ignore)
    assert set(by_size) == {"40", "60"}
    assert all(value >= 0 for metrics in by_size.values() for value in metrics.values())
