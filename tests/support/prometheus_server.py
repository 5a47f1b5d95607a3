"""A real Prometheus for tests: Debian's package, on a free port, scraping once a second."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.object_store import free_ports


def program(name: str) -> str:
    """A program of Debian's package; the test is skipped where it is not installed, but never in CI."""
    path = shutil.which(name)
    if path is None:
        assert not os.environ.get("CI"), "CI must have Debian's prometheus: apt-get install prometheus"
        pytest.skip("Debian's prometheus is not installed")
    return path


def shorten(rules: str) -> str:
    """Rules with periods of a second instead of minutes, over ranges of ten seconds instead of minutes."""
    return re.sub(r"\[\d+m\]", "[10s]", re.sub(r"for: \d+[mhd]", "for: 1s", rules))


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of a PromQL expression now."""
        answer = self._http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return answer.json()["data"]["result"]

    def fired(self) -> set[str]:
        """The alerts that have fired in the last ten minutes."""
        series = self.query('max by (alertname) (max_over_time(ALERTS{alertstate="firing"}[10m]))')
        return {alert["metric"]["alertname"] for alert in series}

    def get(self, path: str) -> Any:
        """The data of another part of its API."""
        return self._http.get(path).json()["data"]

    def await_firing(self, *alerts: str) -> None:
        """Wait until each of these alerts has fired."""
        deadline = time.monotonic() + 60
        while missing := set(alerts) - self.fired():
            assert time.monotonic() < deadline, f"{missing} have not fired"
            time.sleep(0.2)

    def close(self) -> None:
        """Close the client."""
        self._http.close()


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until a condition is true; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:.0f} s"
        time.sleep(0.2)
    return value


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, str], rules: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the targets (host and port by job), until the context ends."""
    folder.mkdir()
    (folder / "rules.yml").write_text(rules)
    jobs = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": intervals, "rule_files": [str(folder / "rules.yml")], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    url = f"127.0.0.1:{free_ports(1)[0]}"
    options = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    command = (program("prometheus"), *options, f"--web.listen-address={url}", "--log.level=warn")
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        prometheus = Prometheus(f"http://{url}")
        try:
            until(lambda: _is_ready(url))
            yield prometheus
        finally:
            prometheus.close()
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"http://{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
