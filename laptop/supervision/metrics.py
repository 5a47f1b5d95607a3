"""The supervisor's figures for Prometheus: which parts run, what they take, what is left of disk and certificate."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from datetime import UTC
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.seaweedfs_tls import Certificates
from laptop.supervision.status import ServiceStatus
from lungline.home import Home


class StackCollector(Collector):
    """Reads the parts' status when Prometheus asks; `parts` gives what it is then."""

    def __init__(self, home: Home, parts: Callable[[], Collection[ServiceStatus]]) -> None:
        self._home = home
        self._parts = parts

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The stack's figures now."""
        ours = [part for part in self._parts() if part.state != "external"]
        yield from _states(ours)
        if sys.platform == "linux":
            yield from _consumption([(part.name, part.pid) for part in ours if part.pid])
        disk = shutil.disk_usage(self._home.path)
        yield GaugeMetricFamily("lungline_disk_free_bytes", "What is left of the disk of the home folder.", disk.free)
        yield GaugeMetricFamily("lungline_disk_size_bytes", "Size of the disk of the home folder.", disk.total)
        expiry = GaugeMetricFamily(
            "lungline_certificate_expiry_timestamp_seconds", "When a certificate expires.", labels=["certificate"]
        )
        if moment := _expiry(Certificates.of(self._home.file("store", "config")).certificate):
            expiry.add_metric(["store"], moment)
        yield expiry


def _states(parts: Collection[ServiceStatus]) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    up = GaugeMetricFamily("lungline_part_ready", "Whether a part runs and can do its work.", labels=["part"])
    restarts = CounterMetricFamily("lungline_part_restarts", "Starts after a part ended by itself.", labels=["part"])
    took = GaugeMetricFamily("lungline_part_start_seconds", "From a part's start until it was ready.", labels=["part"])
    for part in parts:
        up.add_metric([part.name], part.state == "ready")
        restarts.add_metric([part.name], part.restarts)
        if part.ready_seconds is not None:
            took.add_metric([part.name], part.ready_seconds)
    yield from (up, restarts, took)


def _consumption(processes: Collection[tuple[str, int]]) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    memory = GaugeMetricFamily("lungline_part_resident_memory_bytes", "Resident memory of a part.", labels=["part"])
    processor = CounterMetricFamily("lungline_part_cpu_seconds", "Processor time of a part.", labels=["part"])
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for name, pid in processes:
        with contextlib.suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            memory.add_metric([name], int(fields[21]) * page)
            processor.add_metric([name], (int(fields[11]) + int(fields[12])) / tick)
    yield from (memory, processor)


def _expiry(certificate: Path) -> float | None:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return None
    return found.not_valid_after_utc.astimezone(UTC).timestamp()
