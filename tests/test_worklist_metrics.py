"""The worklist's metrics, and that none describes a patient."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.support.worklist_site import Site, home, record, running_site
from worklist import metrics
from worklist.database.losses import Losses
from worklist.metrics import REGISTRY, ListCollector


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(home(tmp_path_factory.mktemp("metrics"))) as running:
        yield running


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def samples() -> tuple[float, float, float]:
    """Values of this process, in which other tests may have run before."""
    return (
        count("lungline_readings_total", label="Pneumonia", verdict="Normal", model_version="1"),
        count("lungline_read_score_bucket", verdict="Pneumonia", presence="present", model_version="1", le="0.9"),
        count("http_requests_total", method="GET", route="/x/{identity}", code="200"),
    )


def test_results_requests_and_readings_are_counted_without_naming_anybody(site: Site) -> None:
    results = [record(number, 0.9, key=f"Doe-Jane-{number}/film.png") for number in range(5)]
    before, others = count("lungline_worklist_results_total", label="Pneumonia"), samples()
    for result in [*results, results[0]]:
        assert site.send(result).status_code == 204
    assert count("lungline_worklist_results_total", label="Pneumonia") == before + 5
    with site.client() as client:
        for result in results:
            assert client.get(f"/x/{result.upload.identity}").status_code == 200
        assert client.get("/Doe-Jane").status_code == 404
        assert site.submit_reading(client, results[0].upload.identity, "Pneumonia").status_code == 303
        assert site.submit_reading(client, results[1].upload.identity, "Normal").status_code == 303
        assert site.submit_reading(client, results[2].upload.identity, "read").status_code == 303
    assert [after - earlier for after, earlier in zip(samples(), others, strict=True)] == [1, 1, 5]
    text = generate_latest(REGISTRY).decode()
    assert "Doe" not in text
    assert not re.search(r"\b[0-9a-f]{32}\b", text)


def test_list_gauges_are_read_at_each_scrape(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        registry = CollectorRegistry()
        registry.register(ListCollector(site.database, lambda: site.app.state.worklist.live.pages, Losses()))
        site.send(record(1))
        assert registry.get_sample_value("lungline_unread_results") == 1
        assert registry.get_sample_value("lungline_notices_troubled") == 0


def test_forged_versions_cannot_fill_the_memory() -> None:
    seen: set[str] = set()
    names = {
        metrics._bounded(f"v{number}", seen, metrics.MAX_VERSIONS)  # noqa: SLF001 - versions enter only here
        for number in range(1000)
    }
    assert len(names) <= metrics.MAX_VERSIONS + 1
    assert "other" in names
