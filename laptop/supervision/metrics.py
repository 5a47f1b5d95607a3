"""The supervisor's metrics for Prometheus: services, their memory and processor time, free disk, certificate expiry."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.seaweedfs_tls import Certificates
from laptop.services.process import family
from laptop.supervision.status import ServiceStatus
from lungline.home import Home
from lungline.storage.contents import remembered


class StackCollector(Collector):
    """Reads the services' status at each scrape; `services` returns it."""

    def __init__(self, home: Home, services: Callable[[], Collection[ServiceStatus]]) -> None:
        self._home = home
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The stack's metrics now."""
        ours = [service for service in self._services() if service.state != "external"]
        yield from _states(ours)
        if sys.platform == "linux":
            yield from _consumption([(service.name, service.pid) for service in ours if service.pid])
        disk = shutil.disk_usage(self._home.path)
        yield GaugeMetricFamily("lungline_disk_free_bytes", "Free space on the disk of the home folder.", disk.free)
        yield GaugeMetricFamily("lungline_disk_size_bytes", "Size of the disk of the home folder.", disk.total)
        if stored := remembered(self._home.path):
            text = "Buckets of the store that were lost or exchanged."
            yield GaugeMetricFamily("lungline_store_lost_buckets", text, len(stored.lost))
        expiry = GaugeMetricFamily(
            "lungline_certificate_expiry_timestamp_seconds", "When a certificate expires.", labels=["certificate"]
        )
        certificates = {
            "store": Certificates.of(self._home.file("store", "config")).certificate,
            "gateway": self._home.file("gateway", "tls", "gateway.crt"),
        }
        for name, path in certificates.items():
            if moment := _expiry(path):
                expiry.add_metric([name], moment)
        yield expiry


def _states(services: Collection[ServiceStatus]) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    up = GaugeMetricFamily("lungline_part_ready", "Whether a service runs and is ready.", labels=["part"])
    restarts = CounterMetricFamily("lungline_part_restarts", "Starts after a service ended by itself.", labels=["part"])
    hangs = CounterMetricFamily(
        "lungline_part_hangs", "Times that a service gave no sign for too long and was killed.", labels=["part"]
    )
    silence = GaugeMetricFamily(
        "lungline_part_silent_seconds", "For how long a service has given no sign; 0 while it does.", labels=["part"]
    )
    start = GaugeMetricFamily(
        "lungline_part_start_seconds", "From a service's start until it was ready.", labels=["part"]
    )
    for service in services:
        up.add_metric([service.name], service.state == "ready")
        restarts.add_metric([service.name], service.restarts)
        hangs.add_metric([service.name], service.hangs)
        silence.add_metric([service.name], time.time() - service.silent_since if service.silent_since else 0.0)
        if service.ready_seconds is not None:
            start.add_metric([service.name], service.ready_seconds)
    yield from (up, restarts, hangs, silence, start)


def _consumption(processes: Collection[tuple[str, int]]) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    memory = GaugeMetricFamily("lungline_part_resident_memory_bytes", "Resident memory of a service.", labels=["part"])
    processor = CounterMetricFamily("lungline_part_cpu_seconds", "Processor time of a service.", labels=["part"])
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for name, pid in processes:
        with contextlib.suppress(OSError):  # it has just ended
            stats = [_stat(member) for member in family(pid)]
            memory.add_metric([name], sum(int(fields[21]) for fields in stats) * page)
            processor.add_metric([name], sum(int(fields[11]) + int(fields[12]) for fields in stats) / tick)
    yield from (memory, processor)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _expiry(certificate: Path) -> float | None:
    from cryptography import x509

    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return None
    return loaded.not_valid_after_utc.astimezone(UTC).timestamp()
