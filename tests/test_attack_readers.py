"""Clients that ask for something large and do not read it, or read it slowly."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn
from sqlalchemy import QueuePool, func, select
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lungline import connections
from lungline.connections import BACKLOG, Bounds, guarded
from tests.support.worklist_site import Site, home, record, running_site
from worklist.database.access import COOKIE
from worklist.database.ingest import ingest
from worklist.database.models import Audit
from worklist.exports import csv_fhir
from worklist.web import live

pytestmark = [pytest.mark.attack, pytest.mark.stack]

MOST = 64
LARGE = 8 * 2**20
MOST_UNSENT = 4 * LARGE
BOUNDS = Bounds(head_seconds=1, send_seconds=2, send_bytes=32 * 1024, unsent_bytes=MOST_UNSENT)
ASK = b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def small(_: Any) -> Response:
    return PlainTextResponse("small")


def medium(_: Any) -> Response:
    return Response(bytes(768 * 1024))


def large(_: Any) -> Response:
    return Response(bytes(LARGE))


class Server(uvicorn.Server):
    """A server in a thread, with its connections."""

    def __init__(self, bounds: Bounds) -> None:
        self.protocol = guarded(AutoHTTPProtocol, MOST, bounds)
        app = Starlette(routes=[Route("/", small), Route("/medium", medium), Route("/large", large)])
        super().__init__(uvicorn.Config(app, port=0, log_level="error", http=self.protocol, backlog=BACKLOG))

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]

    def unsent(self) -> int:
        """Bytes of all responses that this process holds."""
        held = [each.transport for each in list(self.server_state.connections) if not each.transport.is_closing()]
        return sum(transport.get_write_buffer_size() for transport in held)


@contextmanager
def running_server(bounds: Bounds) -> Iterator[Server]:
    server = Server(bounds)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield server
    server.should_exit = server.force_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server(BOUNDS) as running:
        yield running


def wait_until(holds: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def readers(port: int, number: int, ask: bytes = ASK) -> Iterator[list[socket.socket]]:
    """Connections that ask, and read nothing."""
    opened = list[socket.socket]()
    try:
        for _ in range(number):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            opened.append(connection)
            connection.connect(("127.0.0.1", port))
            with suppress(OSError):  # it has made way already
                connection.sendall(ask)
        yield opened
    finally:
        for connection in opened:
            connection.close()


def ends(connection: socket.socket) -> bool:
    """Whether the server has reset a connection; what the system holds is read first."""
    try:
        return any(not connection.recv(2**20) for _ in range(1000))
    except ConnectionResetError:
        return True


class TestServer:
    def test_a_reader_of_nothing_is_closed(self, server: Server) -> None:
        with readers(server.port, 1) as (reader,):
            wait_until(lambda: server.unsent() > LARGE // 2)
            wait_until(lambda: not server.server_state.connections, 8)
            assert ends(reader)

    def test_a_trickle_is_closed(self, server: Server) -> None:
        """Eight kilobytes a second are under the limit, however steadily they come."""
        with readers(server.port, 1) as (reader,):
            wait_until(lambda: server.unsent() > LARGE // 2)
            end = time.monotonic() + 10
            while server.server_state.connections:
                reader.recv(800)
                time.sleep(0.1)
                assert time.monotonic() < end

    def test_a_slow_line_gets_all_of_a_response(self, server: Server) -> None:
        """For longer than a head may take, and longer than a window of slowness lasts."""
        began, taken = time.monotonic(), 0
        with readers(server.port, 1) as (reader,):
            while taken < LARGE:
                taken += len(data := reader.recv(2**17))
                assert data
                time.sleep(len(data) / 2**21)
        assert time.monotonic() - began > 2 * BOUNDS.send_seconds - 1

    def test_many_who_read_nothing_hold_little(self, server: Server) -> None:
        most = 0
        with readers(server.port, 100):
            for _ in range(10):
                most = max(most, server.unsent())
                assert httpx.get(f"http://127.0.0.1:{server.port}/", timeout=5).text == "small"
                assert len(httpx.get(f"http://127.0.0.1:{server.port}/large", timeout=5).content) == LARGE
        assert most <= MOST_UNSENT + LARGE

    def test_a_thousand_who_read_nothing_shut_out_nobody(self) -> None:
        """Before any of them has been too slow, and whatever they hold."""
        ask = ASK.replace(b"large", b"medium")
        with running_server(Bounds(send_seconds=60, unsent_bytes=2**30)) as server, readers(server.port, 1000, ask):
            wait_until(lambda: len(server.server_state.connections) <= MOST, 10)
            assert httpx.get(f"http://127.0.0.1:{server.port}/", timeout=5).text == "small"

    def test_requests_are_not_piled_up(self, server: Server) -> None:
        with readers(server.port, 1, ASK * 4000) as (reader,):
            assert ends(reader)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(home(tmp_path)) as running:
        yield running


def port_of(site: Site) -> int:
    return int(site.url.rpartition(":")[2])


def exports_of(site: Site) -> int:
    with site.database.reading() as session:
        return session.scalar(select(func.count()).where(Audit.act == "exported")) or 0


def test_pages_that_read_nothing_do_not_shut_the_worklist(site: Site) -> None:
    cookie = site.access.begin("dr.slow", "admin")
    ask = f"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={cookie}\r\n\r\n".encode()
    with readers(port_of(site), live.PAGES_OF_A_SESSION + 20, ask), site.client() as client:
        wait_until(lambda: site.app.state.worklist.live.pages == live.PAGES_OF_A_SESSION)
        with httpx.Client(base_url=site.url, cookies={COOKIE: cookie}, timeout=20) as more:
            refused = more.get("/live")
        assert refused.status_code == 429
        assert "Too many pages" in refused.json()["error"]
        with client.stream("GET", "/live") as stream:
            assert stream.status_code == 200
            assert "opened" in next(stream.iter_text())
    wait_until(lambda: site.app.state.worklist.live.pages == 0)


def test_exports_that_nobody_reads_hold_no_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has few: as many slow exports would keep it from everybody."""
    monkeypatch.setattr(connections, "_SYSTEM_BUFFER", 4096)
    monkeypatch.setattr(csv_fhir, "BATCH", 50)
    for number in range(400):
        ingest(site.database, record(number, key=f"{'ward' * 250}-{number}.jpeg"))
    cookie = site.access.begin("dr.slow", "admin")
    ask = f"GET /export.csv HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {COOKIE}={cookie}\r\n\r\n".encode()
    pool = cast("QueuePool", site.database.engine.pool)
    with readers(port_of(site), 40, ask):
        wait_until(lambda: exports_of(site) == 40)
        wait_until(lambda: pool.checkedout() <= 1, 5)
        with site.client() as client:
            assert client.get("/").status_code == 200
