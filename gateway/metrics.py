"""Metrics of the gateway; no label holds anything that a sender chose."""

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from lungline.metrics_server import serve_metrics

Way = Literal["dimse", "stow"]
Ending = Literal["accepted", "rejected", "unproved", "aborted", "crowded-out"]

REGISTRY = CollectorRegistry()
_INSTANCES = Counter(
    "lungline_gateway_instances_total", "DICOM objects by way and outcome.", ["way", "outcome"], registry=REGISTRY
)
_BYTES = Counter("lungline_gateway_bytes_total", "Bytes of the objects stored, by way.", ["way"], registry=REGISTRY)
_ASSOCIATIONS = Counter(
    "lungline_gateway_associations_total", "Associations by how they went.", ["outcome"], registry=REGISTRY
)
_COMMITMENTS = Counter(
    "lungline_gateway_commitments_total", "Requests for storage commitment by outcome.", ["outcome"], registry=REGISTRY
)
OPEN = Gauge("lungline_gateway_connections", "Open DICOM connections.", registry=REGISTRY)
SPOOL_LIMIT = Gauge("lungline_gateway_spool_limit_bytes", "Room for what is not stored yet.", registry=REGISTRY)
SPOOLED = Gauge("lungline_gateway_spooled_bytes", "Bytes received that are not stored yet.", registry=REGISTRY)


# A counter that begins with its first event hides that event: Prometheus sees no increase.
for _way in get_args(Way):
    _BYTES.labels(_way)
for _ending in get_args(Ending):
    _ASSOCIATIONS.labels(_ending)


def begin_at_zero(outcomes: Iterable[str]) -> None:
    """Begin to count objects of these outcomes, so that the first of them is an increase."""
    for way in get_args(Way):
        for outcome in outcomes:
            _INSTANCES.labels(way, outcome)


def count(way: Way, outcome: str, size: int) -> None:
    """Count an object."""
    _INSTANCES.labels(way, outcome).inc()
    _BYTES.labels(way).inc(size)


def count_association(outcome: Ending) -> None:
    """Count an association, or a connection that did not become one."""
    _ASSOCIATIONS.labels(outcome).inc()


def count_commitment(outcome: Literal["stored", "missing", "refused", "unreported"]) -> None:
    """Count a request for storage commitment, or a report that nobody took."""
    _COMMITMENTS.labels(outcome).inc()


def expose(host: str, port: int) -> None:
    """Serve the metrics. Raises StackError when the port is taken."""
    ProcessCollector(registry=REGISTRY)
    serve_metrics(REGISTRY, port, host)
