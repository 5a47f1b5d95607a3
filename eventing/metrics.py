"""Prometheus metrics of a process that has no HTTP server of its own."""

import logging

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

log = logging.getLogger("lungline.metrics")


def expose(port: int | None, *collectors: Collector, host: str = "127.0.0.1") -> None:
    """Answer Prometheus at `port` from a thread of its own; None exposes nothing.

    A process rather works unwatched than not at all, so a port that is taken is only a line in its log.
    """
    if port is None:
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    try:
        start_http_server(port, host, registry)
    except OSError as exc:
        log.warning("Metrics are not served: port %d: %s.", port, exc.strerror)
