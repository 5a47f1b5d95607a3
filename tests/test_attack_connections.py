"""Slow connections and hostile pages against the predictor, the worklist and the metrics of trigger and bridge."""

import http.client
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from lungline.metrics_server import serve_metrics
from lungline.storage.s3 import Storage
from tests.support.object_store import free_ports
from tests.support.predictor import IMAGE, INFER, PREDICT, Predictor, b64, deliver, event, put
from tests.support.waiting import eventually
from tests.support.worklist_site import home, running_site

pytestmark = [pytest.mark.attack, pytest.mark.stack]

HOSTILE = 1100
DESCRIPTORS = 1024
BEGINNING = b"GET / HTTP/1.1\r\nX: "


@pytest.fixture(autouse=True)
def few_descriptors(request: pytest.FixtureRequest) -> None:
    """A predictor may have as many descriptors as a service has by default."""
    if "predictor" in request.fixturenames:
        running: Predictor = request.getfixturevalue("predictor")
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


@contextmanager
def connections(port: int, number: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Connections that send a beginning, and then nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    opened = list[socket.socket]()
    try:
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            opened.append(connection)
            with suppress(OSError):  # it has made way already
                connection.sendall(first)
        yield opened
    finally:
        for connection in opened:
            connection.close()


def declaring(path: str, size: int) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + b'{"instances": ['


class TestPredictor:
    def test_declared_bodies_take_no_room(self, predictor: Predictor, store: Storage) -> None:
        with connections(port_of(predictor), 40, declaring(PREDICT, 2_300_000)):
            assert [deliver(predictor, put(store)).status_code for _ in range(5)] == [200] * 5
            assert predictor.http.post("/predict", content=IMAGE).status_code == 200

    @pytest.mark.parametrize("first", [b"", b"POST / HTTP/1.1\r\nX: ", declaring(PREDICT, 2_000_000)])
    def test_slow_connections_shut_out_nobody(self, predictor: Predictor, store: Storage, first: bytes) -> None:
        with connections(port_of(predictor), HOSTILE, first):
            for _ in range(3):
                with httpx.Client(base_url=predictor.http.base_url, timeout=20) as client:
                    assert client.get("/v2/health/ready").status_code == 200
                    assert client.post(PREDICT, json=event(put(store))).status_code == 200

    def test_a_head_that_does_not_end_is_cut(self, predictor: Predictor) -> None:
        def send_more(slow: socket.socket) -> None:
            for _ in range(1000):
                slow.sendall(b"a" * 4096)
                time.sleep(0.001)

        with connections(port_of(predictor), 1, BEGINNING) as (slow,), pytest.raises(OSError, match=r"reset|[Bb]roken"):
            send_more(slow)

    def test_a_head_that_takes_too_long_is_cut(self, predictor: Predictor) -> None:
        with connections(port_of(predictor), 1, BEGINNING) as (slow,):
            slow.settimeout(30)
            began = time.monotonic()
            with suppress(ConnectionResetError):
                assert slow.recv(100) == b""
            assert time.monotonic() - began < 20

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site", "origin": "http://localhost:9"},
            {"host": "evil.example:8080", "origin": "http://evil.example:8080", "sec-fetch-site": "same-origin"},
        ],
        ids=str,
    )
    def test_pages_of_other_sites_are_refused(
        self, predictor: Predictor, store: Storage, headers: dict[str, str]
    ) -> None:
        bodies: list[tuple[str, dict[str, Any]]] = [
            (PREDICT, {"json": event(put(store))}),
            (PREDICT, {"json": {"instances": [b64(IMAGE)]}}),
            (INFER, {"json": {}}),
            ("/predict", {"content": IMAGE}),
        ]
        for path, body in bodies:
            assert predictor.http.post(path, headers=headers, **body).status_code == 403
        assert predictor.http.get("/v1/models", headers=headers).status_code == 403

    def test_json_as_text_is_refused(self, predictor: Predictor, store: Storage) -> None:
        import json

        text = json.dumps(event(put(store)))
        reply = predictor.http.post(PREDICT, content=text, headers={"content-type": "text/plain"})
        assert reply.status_code == 415

    @pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "[::1]:1", "lungline.localhost"])
    def test_clients_and_own_pages_are_served(self, predictor: Predictor, host: str) -> None:
        own = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        for headers in ({"host": host}, own):
            assert predictor.http.post("/predict", content=IMAGE, headers=headers).status_code == 200

    def test_json_of_millions_of_values_is_not_parsed(self, predictor: Predictor) -> None:
        for body in (b'{"inputs": [[' + b"0," * 900_000 + b"0]]}", b"[" * 900_000):
            reply = predictor.http.post(INFER, content=body, headers={"content-type": "application/json"})
            assert reply.status_code == 400
            assert "values" in reply.json()["error"]


def test_slow_connections_do_not_shut_the_worklist(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        port = int(site.url.rpartition(":")[2])
        for first in (b"", BEGINNING, declaring("/", 1_000_000)):
            with connections(port, HOSTILE, first):
                assert httpx.get(f"{site.url}/healthz", timeout=20).status_code == 200


def test_slow_connections_do_not_shut_metrics() -> None:
    """As trigger, bridge and worklist serve them: each connection has a thread."""
    import threading

    (port,) = free_ports(1)
    serve_metrics(CollectorRegistry(), port, "127.0.0.1")
    before = threading.active_count()
    with connections(port, 300, b"GET /"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("GET", "/metrics")
        assert client.getresponse().status == 200
        client.close()
        # The thread of a connection that made way ends a moment after it.
        eventually(lambda: threading.active_count() - before < 40, 3)


def port_of(predictor: Predictor) -> int:
    port = predictor.http.base_url.port
    assert port
    return port
