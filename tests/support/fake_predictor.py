"""A sink on a real port whose responses a test chooses."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A sink's response to the n-th delivery of a value: a status, and perhaps headers.
Behaviour = Callable[[str, int], int | tuple[int, dict[str, str]]]


class FakePredictor:
    """A sink on a real port that records its deliveries."""

    def __init__(self, behave: Behaviour, port: int = 0) -> None:
        self.ready = True
        self.readiness_status = 200
        self.connections: list[socket.socket] = []
        self.deliveries: list[tuple[str, dict[str, str], float]] = []
        self.counts: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake.connections.append(self.connection)

            def do_GET(self) -> None:
                self._answer(fake.readiness_status if fake.ready else 503)

            def do_POST(self) -> None:
                value = self.rfile.read(int(self.headers["content-length"])).decode()
                with lock:
                    fake.counts[value] += 1
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                    headers = {name.lower(): text for name, text in self.headers.items()}
                    fake.deliveries.append((value, headers, time.monotonic()))
                answer = behave(value, fake.counts[value])
                with lock:
                    fake.at_once -= 1
                status, extra = answer if isinstance(answer, tuple) else (answer, {})
                self._answer(status, extra, b'{"error": "no"}' if status >= 400 else b"done")

            def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"{}") -> None:
                if not status:  # hang up
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, text in (headers or {}).items():
                    self.send_header(name, text)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the base class
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing: clients that are killed are part of the tests."""

        self.server = Server(("127.0.0.1", port), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"

    def hang_up(self) -> None:
        """Close all connections, as a server does with idle ones."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    def times(self, value: str) -> list[float]:
        return [moment for delivered, _, moment in self.deliveries if delivered == value]


@contextmanager
def fake_predictor(behave: Behaviour = lambda *_: 200, port: int = 0) -> Iterator[FakePredictor]:
    fake = FakePredictor(behave, port)
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()
        thread.join()
