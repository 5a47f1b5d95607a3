"""An HTTP sink of the trigger, and the circuit breaker that holds events while it is unavailable."""

import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0
READY_PATH = "/v2/health/ready"
# Statuses below 500 that Knative retries.
MOST_BUSY_SECONDS = 30
RETRIED = frozenset({404, 408, 409, 429})


@dataclass(frozen=True, slots=True)
class SinkResponse:
    """A sink's response; `status` is None when there was none."""

    status: int | None
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def delivered(self) -> bool:
        """Whether the sink has accepted the event."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def retryable(self) -> bool:
        """Whether Knative would retry."""
        return self.status is None or self.status >= 500 or self.status in RETRIED

    @property
    def unavailable(self) -> bool:
        """Whether the sink may be unable to accept any event at all."""
        return self.status in {None, 503}

    @property
    def busy_seconds(self) -> float | None:
        """When a sink that is busy asks for another attempt (503 with Retry-After); None for any other response."""
        after = next((value for name, value in self.headers if name.lower() == "retry-after"), "")
        return (
            min(int(after), MOST_BUSY_SECONDS) if self.status == 503 and after.isdecimal() and after.isascii() else None
        )


class Sink:
    """An HTTP address with one open connection for each thread; may be shared by threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = urlsplit(url)
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def post(self, body: bytes, headers: Mapping[str, str]) -> SinkResponse:
        """Deliver an event once; never raises for a sink that is unavailable or misbehaves."""
        reused = self._connection().sock is not None
        response = self._request("POST", self._address.path, body, headers)
        if response.status is None and reused:
            # The sink may have closed an idle connection just now; that is not a failed delivery.
            response = self._request("POST", self._address.path, body, headers)
        return response

    def is_ready(self) -> bool:
        """Whether the sink reports that it is ready; one without a readiness path counts as ready."""
        response = self._request("GET", READY_PATH, None, {})
        if response.unavailable:
            return False
        try:
            return not response.delivered or json.loads(response.body).get("ready", True) is not False
        except (ValueError, AttributeError):
            return True

    def close(self) -> None:
        """Close all connections; call it when no thread uses the sink any more."""
        for connection in self._connections:
            connection.close()

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> SinkResponse:
        connection = self._connection()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return SinkResponse(response.status, response.read(), tuple(response.getheaders()))
        except (OSError, http.client.HTTPException) as exc:
            connection.close()  # the next request opens it again
            return SinkResponse(None, f"dispatch error: {type(exc).__name__}".encode())

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
            self._local.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
            self._connections.append(self._local.connection)
        return self._local.connection


class CircuitBreaker:
    """Closed while the sink is ready, so that events flow; open while it is not, so that events wait.

    Waiting uses up no retries. On a cluster Knative's activator does this: it holds requests while no predictor is
    ready.
    """

    def __init__(self, sink: Sink, poll_seconds: float = 0.1) -> None:
        self._sink = sink
        self._poll_seconds = poll_seconds
        self._closed = threading.Event()
        self._closed.set()
        self._ended = False
        self._polling = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether events flow."""
        return self._closed.is_set()

    def trip(self) -> None:
        """Open until the sink reports that it is ready."""
        if not self._polling.acquire(blocking=False):
            return  # it is open already
        self._closed.clear()
        if self._ended or self._sink.is_ready():
            self._polling.release()
            self._closed.set()
            return
        threading.Thread(target=self._poll, name="breaker", daemon=True).start()

    def wait(self) -> bool:
        """Wait until it is closed; False after `end`."""
        self._closed.wait()
        return not self._ended

    def end(self) -> None:
        """Release every waiting thread, for good."""
        self._ended = True
        self._closed.set()

    def _poll(self) -> None:
        try:
            while not self._ended and not self._sink.is_ready():
                time.sleep(self._poll_seconds)
        finally:
            self._polling.release()
            self._closed.set()
