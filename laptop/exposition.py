"""Where the parts of a stack answer Prometheus: on ports of the loopback interface."""

import logging

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from laptop.home import Home
from laptop.ports import HOST, Ports, load_ports

log = logging.getLogger("lungline.metrics")


def targets(ports: Ports) -> dict[str, str]:
    """Host and port of the metrics of each part that has some."""
    found = {
        "predictor": ports.predictor,
        "bridge": ports.bridge_metrics,
        "trigger": ports.trigger_metrics,
        "worklist": ports.worklist_metrics,
        "supervisor": ports.supervisor_metrics,
    }
    return {part: f"{HOST}:{port}" for part, port in found.items()}


def expose(home: Home, part: str, *collectors: Collector) -> None:
    """Answer Prometheus for a part, from a thread of its own.

    A part rather works unwatched than not at all, so a port that is taken is only a line in its log.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    ports = load_ports(home)
    if ports is None:  # alone, outside a stack
        return
    port = int(targets(ports)[part].rpartition(":")[2])
    try:
        start_http_server(port, HOST, registry)
    except OSError as exc:
        log.warning("The metrics of the %s are not served: port %d: %s.", part, port, exc.strerror)
