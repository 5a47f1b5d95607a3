"""Prometheus metrics of a process that has no HTTP server of its own."""

import logging

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from lungline.errors import StackError
from lungline.metrics_server import serve_metrics

log = logging.getLogger("lungline.metrics")


def expose(port: int | None, *collectors: Collector, host: str = "127.0.0.1") -> None:
    """Serve the metrics of `collectors` at a port from a thread; None serves nothing.

    A port that is taken is only logged: a service without metrics is better than none.
    """
    if port is None:
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    try:
        serve_metrics(registry, port, host)
    except StackError as exc:
        log.warning("Metrics are not served. %s", exc)
