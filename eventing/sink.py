"""An HTTP sink of the trigger, and the circuit breaker that holds events while it is unavailable."""

import http.client
import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import SecretStr

from lungline.events.proof import HEADER, Pair, Receiving, Sender, Session

TIMEOUT_SECONDS = 60.0
# A greeting that takes longer costs nothing: it is said again.
GREETING_SECONDS, MOST_GREETING_BYTES = 10.0, 64 * 1024
# A server under load may take a while.
PROBE_SECONDS = 4.0
READY_PATH = "/v2/health/ready"
# Statuses below 500 that Knative retries.
MOST_BUSY_SECONDS = 30
RETRIED = frozenset({404, 408, 409, 429})

log = logging.getLogger("lungline.trigger")


@dataclass(frozen=True, slots=True)
class SinkResponse:
    """A sink's response; `status` is None when there was none."""

    status: int | None
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    sent: bool = True
    """Whether the event was sent; not to a sink that is not ready, or does not prove to be the one."""
    believed: bool = True
    """Whether it is the sink's own, as far as that must be proved."""

    @property
    def delivered(self) -> bool:
        """Whether the sink has accepted the event."""
        return self.sent and self.believed and self.status is not None and 200 <= self.status < 300

    @property
    def retryable(self) -> bool:
        """Whether Knative would retry."""
        return self.status is None or self.status >= 500 or self.status in RETRIED

    @property
    def unavailable(self) -> bool:
        """Whether the sink may be unable to accept any event at all."""
        return self.status in {None, 503} or not self.believed

    @property
    def busy_seconds(self) -> float | None:
        """When a sink that is busy asks for another attempt (503 with Retry-After); None for any other response."""
        after = next((value for name, value in self.headers if name.lower() == "retry-after"), "")
        return (
            min(int(after), MOST_BUSY_SECONDS) if self.status == 503 and after.isdecimal() and after.isascii() else None
        )


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A request: an event, or a greeting, which has no body."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Sink:
    """An HTTP address with one open connection for each thread; may be shared by threads.

    With a `sender` every request is proved, and every answer must be. A new connection is greeted first: an event goes
    to nobody who has not proved to be its receiver.
    """

    def __init__(self, url: str, sender: Sender | None = None, greeting_seconds: float = GREETING_SECONDS) -> None:
        self.url = url
        self.is_stranger = False
        """Whether another program answers there, as far as known."""
        self._sender = sender
        self._greeting_seconds = greeting_seconds
        self._address = urlsplit(url)
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def post(self, body: bytes, headers: Mapping[str, str]) -> SinkResponse:
        """Deliver an event once; never raises for a sink that is unavailable or misbehaves."""
        reused = self._connection().sock is not None
        response = self._deliver(body, headers)
        if response.status is None and reused:
            # The sink may have closed an idle connection just now; that is not a failed delivery.
            response = self._deliver(body, headers)
        return response

    def is_ready(self) -> bool:
        """Whether the sink reports that it is ready; one without a readiness path counts as ready."""
        response = self.greet()
        if response.unavailable:
            return False
        try:
            return not response.delivered or json.loads(response.body).get("ready", True) is not False
        except (ValueError, AttributeError):
            return True

    def greet(self) -> SinkResponse:
        """Ask the sink whether it is ready; with a sender it must prove itself, and begins a session."""
        connection = self._connection()
        connection.timeout = self._greeting_seconds
        if self._sender:
            response = self._proved(self._sender, _Outgoing("GET", READY_PATH))
        else:
            response = self._request(_Outgoing("GET", READY_PATH))
        connection.timeout = TIMEOUT_SECONDS
        if response.status is not None:
            self._note(is_stranger=not response.believed)
        return response

    def close(self) -> None:
        """Close all connections; call it when no thread uses the sink any more."""
        for connection in self._connections:
            connection.close()

    def _deliver(self, body: bytes, headers: Mapping[str, str]) -> SinkResponse:
        event = _Outgoing("POST", self._address.path, body, headers)
        if self._sender is None:
            return self._request(event)
        if self._connection().sock is None and not (greeting := self.greet()).delivered:
            return replace(greeting, sent=False)
        return self._proved(self._sender, event, self._local.session)

    def _proved(self, sender: Sender, event: "_Outgoing", session: Session | None = None) -> SinkResponse:
        """The response to a proved request, believed if it is proved itself; without a session this begins one."""
        pairs = _pairs(event.headers.items())
        request, proof = sender.prove(event.method, event.path, pairs, event.body or b"", session)
        response = self._request(replace(event, headers={**event.headers, HEADER: proof}))
        if response.status is None:
            return response
        answer = dict(response.headers).get(HEADER)
        begun = sender.session_of(request, response.status, _pairs(response.headers), response.body, answer)
        if begun is None:
            self._connection().close()
            return replace(response, believed=False)
        self._local.session = begun
        return response

    def _request(self, event: "_Outgoing") -> SinkResponse:
        connection = self._connection()
        if connection.sock:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request(event.method, event.path, event.body, event.headers)
            response = connection.getresponse()
            # Whoever answers a greeting is not known yet, and may have no end.
            data = response.read(None if event.body is not None else MOST_GREETING_BYTES)
            return SinkResponse(response.status, data, tuple(response.getheaders()))
        except (OSError, http.client.HTTPException) as exc:
            connection.close()  # the next request opens it again
            return SinkResponse(None, f"dispatch error: {type(exc).__name__}".encode())

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
            self._local.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
            self._connections.append(self._local.connection)
        return self._local.connection

    def _note(self, *, is_stranger: bool) -> None:
        """Log once that somebody else answers, and once that he does no more."""
        if is_stranger == self.is_stranger or self._sender is None:
            return
        self.is_stranger = is_stranger
        address, name = self._address.netloc, self._sender.receiver
        if is_stranger:
            log.error("Another program answers at %s: it does not prove that it is the %s. Events wait.", address, name)
        else:
            log.info("The %s answers at %s again.", name, address)


def _pairs(headers: Iterable[tuple[str, str]]) -> list[Pair]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def greeting(address: str, receiver: Receiving, key: SecretStr | None) -> SinkResponse:
    """How a receiver at an address answers to a greeting, over a new connection; for probes."""
    sink = Sink(f"{address}/", Sender(key.get_secret_value(), receiver) if key else None, PROBE_SECONDS)
    try:
        return sink.greet()
    finally:
        sink.close()


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
