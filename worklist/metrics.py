"""Prometheus metrics of the worklist, served on a port that neither readers nor an ingress reach.

Label values come from closed sets and the first few model versions; none describes a patient.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import LunglineError
from lungline.metrics_server import serve_metrics
from lungline.results.records import REFUSED as REFUSED_LABEL
from lungline.results.records import UNSURE, ResultRecord
from lungline.task.terms import TaskTerms, default_terms
from worklist.database import deliveries, notices
from worklist.database.deliveries import DeliveryCount
from worklist.database.losses import Losses
from worklist.database.models import ReadingRow, WorklistEntry
from worklist.database.session import Database

# Not the library's default: the predictor uses that one, and tests run both in one process.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

REQUESTS = Counter(
    "http_requests_total", "Requests by method, route and status.", ["method", "route", "code"], registry=REGISTRY
)
RESULTS = Counter(
    "lungline_worklist_results_total", "Results that changed the list, by label.", ["label"], registry=REGISTRY
)
REFUSED = Counter(
    "lungline_worklist_refused_total",
    "Results that were not shown: no such record in the store, an impossible record, a version never promoted.",
    ["reason"],
    registry=REGISTRY,
)
SHOWN_SECONDS = Histogram(
    "lungline_upload_to_worklist_seconds",
    "Seconds from the moment an upload was stored until its result was on the worklist.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
    registry=REGISTRY,
)
NOTICES = Counter("lungline_notices_total", "Attempts to send a notice, by outcome.", ["outcome"], registry=REGISTRY)
DELIVERIES = Counter(
    "lungline_result_delivery_attempts_total",
    "Attempts to deliver a result to another system, by destination and outcome.",
    ["destination", "outcome"],
    registry=REGISTRY,
)
READINGS = Counter(
    "lungline_readings_total", "Readings with a verdict.", ["label", "verdict", "model_version"], registry=REGISTRY
)
READ_SCORES = Histogram(
    "lungline_read_score",
    "Predicted probabilities of read X-rays, by the reader's verdict, and by whether that is a finding of the task.",
    ["verdict", "presence", "model_version"],
    buckets=tuple(step / 10 for step in range(1, 11)),
    registry=REGISTRY,
)
# Versions and labels come from records, so forged ones must not be able to exhaust memory.
MAX_VERSIONS, MAX_LABELS = 50, 200
_versions: set[str] = set()
_labels: set[str] = set()

notice_outcome = cache(NOTICES.labels)
delivery_outcome = cache(DELIVERIES.labels)
_request = cache(REQUESTS.labels)
_result = cache(RESULTS.labels)
# Present as 0 from the first scrape: a series that begins at 1 shows no increase.
for _label in (*default_terms().labels, UNSURE, REFUSED_LABEL):
    _result(_label)
for _outcome in ("sent", "failed"):
    notice_outcome(_outcome)
for _reason in ("missing", "malformed", "version"):
    REFUSED.labels(_reason)


def count_result(record: ResultRecord) -> None:
    """Count a result that changed the list."""
    _result(_bounded(record.label or "", _labels, MAX_LABELS)).inc()
    if record.times.uploaded:
        SHOWN_SECONDS.observe(max(0.0, (datetime.now(UTC) - record.times.uploaded).total_seconds()))


def count_refused(reason: str) -> None:
    """Count a result that is not shown: `missing`, `malformed` or `version`."""
    REFUSED.labels(reason).inc()


def count_reading(reading: ReadingRow, terms: TaskTerms) -> None:
    """Count a reading with a verdict; others say nothing about the model. `terms` are those of its result's task."""
    if reading.verdict is None:
        return
    version = _bounded(reading.version, _versions, MAX_VERSIONS)
    READINGS.labels(reading.label or "", reading.verdict, version).inc()
    if reading.probability is not None:
        finding = terms.labelled(reading.verdict)
        presence = ("absent" if finding.negative else "present") if finding else "unknown"
        READ_SCORES.labels(reading.verdict, presence, version).observe(reading.probability)


def _bounded(value: str, seen: set[str], most: int) -> str:
    if value not in seen and len(seen) >= most:
        return "other"
    seen.add(value)
    return value


class CountedRequests:
    """ASGI middleware that counts requests by route pattern, never by URL, which identifies an upload."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST"} else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                _request(method, route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)


class ListCollector(Collector):
    """Gauges of the list, read from the database at each scrape."""

    def __init__(self, database: Database, open_pages: Callable[[], int], losses: Losses) -> None:
        self._database = database
        self._open_pages = open_pages
        self._losses = losses

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The current gauges; only the open pages while the database is unavailable."""
        yield GaugeMetricFamily("lungline_pages_open", "Open pages of the list.", self._open_pages())
        yield GaugeMetricFamily(
            "lungline_store_missing_results", "Results of the list that the store lacks.", self._losses.results
        )
        yield GaugeMetricFamily(
            "lungline_store_missing_images",
            "Newest X-rays of the list, when the store lacks all of them.",
            self._losses.images,
        )
        try:
            with self._database.reading() as session:
                unread = (
                    session.scalar(select(func.count()).select_from(WorklistEntry).where(WorklistEntry.read == 0)) or 0
                )
                pending = notices.count_open(session)
                outgoing = deliveries.counts(session)
        except LunglineError:
            return
        yield GaugeMetricFamily("lungline_unread_results", "Results that no reader has read.", unread)
        yield GaugeMetricFamily(
            "lungline_notices_unacknowledged", "Sent notices that are not acknowledged.", pending.waiting
        )
        yield GaugeMetricFamily(
            "lungline_notices_troubled", "Notices that could not be sent and are not acknowledged.", pending.failed
        )
        yield from _gauges_of(outgoing)


def _gauges_of(outgoing: list[DeliveryCount]) -> Iterator[GaugeMetricFamily]:
    labels = ["destination", "state"]
    number = GaugeMetricFamily(
        "lungline_result_deliveries", "Deliveries that wait or have failed, by destination.", labels=labels
    )
    age = GaugeMetricFamily(
        "lungline_result_delivery_wait_seconds", "Age of the oldest delivery that waits.", labels=["destination"]
    )
    oldest: dict[str, datetime] = {}
    for each in outgoing:
        number.add_metric([each.destination, each.state], each.number)
        if each.state != "failed":
            oldest[each.destination] = min(each.oldest, oldest.get(each.destination, each.oldest))
    for destination, since in oldest.items():
        age.add_metric([destination], (datetime.now(UTC) - since).total_seconds())
    yield number
    yield age


def serve(host: str, port: int, *collectors: Collector) -> None:
    """Serve the metrics on their own port, in a thread. Raises StackError."""
    for collector in collectors:
        REGISTRY.register(collector)
    serve_metrics(REGISTRY, port, host)
