"""The worklist's own figures for Prometheus, served on a port that no reader and no ingress reaches.

Labels take only values from closed sets, and the first few versions of the model; nothing of a patient is among them.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import LunglineError
from lungline.results.records import ResultRecord
from worklist.database import notices
from worklist.database.models import ReadingRow, WorklistEntry
from worklist.database.session import Database

# Not the library's own: the predictor has that one, and both run in one process of the tests.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

REQUESTS = Counter(
    "http_requests_total", "Requests that were answered.", ["method", "route", "code"], registry=REGISTRY
)
TAKEN_IN = Counter(
    "lungline_worklist_results_total", "Results that changed the list, by label.", ["label"], registry=REGISTRY
)
SHOWN_SECONDS = Histogram(
    "lungline_upload_to_worklist_seconds",
    "Seconds from the moment an upload was stored until its result was on the worklist.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
    registry=REGISTRY,
)
NOTICES = Counter("lungline_notices_total", "Attempts to tell somebody of a result.", ["outcome"], registry=REGISTRY)
READINGS = Counter(
    "lungline_readings_total", "What readers saw.", ["label", "verdict", "model_version"], registry=REGISTRY
)
READ_SCORES = Histogram(
    "lungline_read_score",
    "Probabilities that the model gave to X-rays, by what a reader saw in them.",
    ["verdict", "model_version"],
    buckets=tuple(step / 10 for step in range(1, 11)),
    registry=REGISTRY,
)
# Versions come from records: whoever could forge some must not be able to fill our memory.
MAX_VERSIONS = 50
_versions: set[str] = set()

notice_outcome = cache(NOTICES.labels)
_request = cache(REQUESTS.labels)
_taken_in = cache(TAKEN_IN.labels)
# There from the first scrape on, as 0: a series that begins at 1 has not risen.
for _label in ("Normal", "Pneumonia", "Unsure", "Refused"):
    _taken_in(_label)
for _outcome in ("sent", "failed"):
    notice_outcome(_outcome)


def count_result(record: ResultRecord) -> None:
    """Count a result that has changed the list."""
    _taken_in(record.label or "").inc()
    if record.times.uploaded:
        SHOWN_SECONDS.observe(max(0.0, (datetime.now(UTC) - record.times.uploaded).total_seconds()))


def count_reading(reading: ReadingRow) -> None:
    """Count what a reader saw; a reading without a verdict says nothing of the model."""
    if reading.verdict is None:
        return
    version = _bounded(reading.version)
    READINGS.labels(reading.label or "", reading.verdict, version).inc()
    if reading.probability is not None:
        READ_SCORES.labels(reading.verdict, version).observe(reading.probability)


def _bounded(version: str) -> str:
    if version not in _versions and len(_versions) >= MAX_VERSIONS:
        return "other"
    _versions.add(version)
    return version


class CountedRequests:
    """Counts answers by the pattern of their route, never by their address, which names an upload."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
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
    """What waits on the list, asked of the database when Prometheus asks us."""

    def __init__(self, database: Database, open_pages: Callable[[], int]) -> None:
        self._database = database
        self._open_pages = open_pages

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The list's figures now; none while the database is away."""
        yield GaugeMetricFamily("lungline_pages_open", "Open pages of the list.", self._open_pages())
        try:
            with self._database.reading() as session:
                unread = (
                    session.scalar(select(func.count()).select_from(WorklistEntry).where(WorklistEntry.read == 0)) or 0
                )
                told = notices.open_notices(session)
        except LunglineError:
            return
        yield GaugeMetricFamily("lungline_unread_results", "Results that no reader has seen.", unread)
        yield GaugeMetricFamily("lungline_notices_unacknowledged", "Notices that nobody has answered.", told.waiting)
        yield GaugeMetricFamily(
            "lungline_notices_troubled", "Notices that could not be sent and that nobody has answered.", told.failed
        )


def serve(host: str, port: int, *collectors: Collector) -> None:
    """Answer Prometheus on a port of its own, from a thread of its own. Raises OSError."""
    for collector in collectors:
        REGISTRY.register(collector)
    start_http_server(port, host, REGISTRY)
