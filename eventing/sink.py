"""Where the trigger delivers to: one address, and whether it takes anything now."""

import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60.0
READY_PATH = "/v2/health/ready"
# Statuses, besides those from 500 on, that Knative tries again.
RETRIED = frozenset({404, 408, 409, 429})


@dataclass(frozen=True, slots=True)
class SinkResponse:
    """What a sink answered; `status` None when it did not."""

    status: int | None
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def delivered(self) -> bool:
        """Whether the sink has taken the event."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def temporary(self) -> bool:
        """Whether Knative would try again."""
        return self.status is None or self.status >= 500 or self.status in RETRIED

    @property
    def away(self) -> bool:
        """Whether perhaps nothing at all is taken now."""
        return self.status in {None, 503}


class Sink:
    """An HTTP address with a connection kept open for each thread; may be shared by threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = urlsplit(url)
        self._local = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def post(self, body: bytes, headers: Mapping[str, str]) -> SinkResponse:
        """Deliver an event once; never raises for a sink that is away or misbehaves."""
        reused = self._connection().sock is not None
        answer = self._try("POST", self._address.path, body, headers)
        if answer.status is None and reused:
            # The sink may just have closed a connection that was idle; nobody has failed yet.
            answer = self._try("POST", self._address.path, body, headers)
        return answer

    def takes(self) -> bool:
        """Whether the sink says that it is ready; one without a readiness page takes whatever comes."""
        answer = self._try("GET", READY_PATH, None, {})
        if answer.away:
            return False
        try:
            return not answer.delivered or json.loads(answer.body).get("ready", True) is not False
        except (ValueError, AttributeError):
            return True

    def close(self) -> None:
        """Close all connections; for when no thread uses the sink any more."""
        for connection in self._opened:
            connection.close()

    def _try(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> SinkResponse:
        connection = self._connection()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return SinkResponse(response.status, response.read(), tuple(response.getheaders()))
        except (OSError, http.client.HTTPException) as exc:
            connection.close()  # it opens itself again with the next request
            return SinkResponse(None, f"dispatch error: {type(exc).__name__}".encode())

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
            self._local.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
            self._opened.append(self._local.connection)
        return self._local.connection


class CircuitBreaker:
    """Open while the sink takes events. While it does not, events wait here and their attempts are not used up.

    On a cluster Knative's activator does this: it holds what arrives while no predictor is ready.
    """

    def __init__(self, sink: Sink, every_seconds: float = 0.1) -> None:
        self._sink = sink
        self._every = every_seconds
        self._open = threading.Event()
        self._open.set()
        self._ended = False
        self._asking = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether events go through."""
        return self._open.is_set()

    def trip(self) -> None:
        """Close until the sink has said that it takes something."""
        if not self._asking.acquire(blocking=False):
            return  # somebody asks, and it is closed
        self._open.clear()
        if self._ended or self._sink.takes():
            self._asking.release()
            self._open.set()
            return
        threading.Thread(target=self._ask, name="breaker", daemon=True).start()

    def wait(self) -> bool:
        """Wait until the gate is open; False when it has been ended."""
        self._open.wait()
        return not self._ended

    def end(self) -> None:
        """Let everybody go."""
        self._ended = True
        self._open.set()

    def _ask(self) -> None:
        try:
            while not self._ended and not self._sink.takes():
                time.sleep(self._every)
        finally:
            self._asking.release()
            self._open.set()
