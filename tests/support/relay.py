"""A program between a sender and a receiver of HTTP, which may change what goes through."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Passing:
    """A request or an answer on its way."""

    line: str | int
    """The path, or the status."""
    headers: dict[str, str]
    body: bytes


Change = Callable[[Passing], Passing]


@dataclass
class Relay:
    """A relay on a port of its own; what it does with events may change at any time."""

    target: tuple[str, int]
    uri: str = ""
    on_event: Change | None = None
    on_answer: Change | None = None
    forged: Passing | None = None
    """Answered to every event instead of passing it on."""
    events: list[Passing] = field(default_factory=list[Passing])
    """As they came from the sender."""

    def exchange(self, method: str, request: Passing) -> Passing:
        """The answer to a request; greetings go through as they are."""
        is_event = method == "POST"
        if is_event:
            self.events.append(request)
            if self.forged:
                return self.forged
            request = self.on_event(request) if self.on_event else request
        answer = self._forward(method, request)
        return self.on_answer(answer) if is_event and self.on_answer else answer

    def _forward(self, method: str, request: Passing) -> Passing:
        connection = http.client.HTTPConnection(*self.target, timeout=30)
        try:
            connection.request(method, str(request.line), request.body or None, request.headers)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Passing(response.status, headers, response.read())
        finally:
            connection.close()


@contextmanager
def relaying(target: tuple[str, int]) -> Iterator[Relay]:
    """A relay to a host and port."""
    relay = Relay(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass()

        def do_POST(self) -> None:
            self._pass()

        def _pass(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.pop("content-length", "0")))
            answer = relay.exchange(self.command, Passing(self.path, headers, body))
            self.send_response_only(int(answer.line))
            for name, value in answer.headers.items():
                if name not in {"content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    relay.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield relay
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def changed(name: str, value: str) -> Change:
    """Set a header."""
    return lambda passing: replace(passing, headers={**passing.headers, name: value})
