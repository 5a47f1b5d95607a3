"""Sessions: on a host name of their own, over when they end, and asked for before anything is read."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.support.chromium import running_chromium
from tests.support.http_stand_in import Quiet, serving
from tests.support.own_host import LoopbackTransport
from tests.support.worklist_browser import opened
from tests.support.worklist_site import Site, headers, home, record, running_site, wait
from worklist.database.access import COOKIE, Access
from worklist.database.session import Database
from worklist.web.security import MAX_FORM_BYTES

HOST = "0a1b2c3d.localhost"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A worklist with a host name of its own."""
    with running_site(home(tmp_path, uri=f"http://{HOST}")) as site:
        yield site


def at(site: Site, host: str = HOST) -> str:
    return site.url.replace("127.0.0.1", host)


@pytest.mark.parametrize("path", ["/", "/login", "/rows", "/live", "/static/page.js", "/logout"])
def test_pages_are_at_their_own_host_only(own: Site, path: str) -> None:
    """Also for who sends a valid cookie to 127.0.0.1."""
    cookies = {COOKIE: own.access.begin("dr.adams", "admin")}
    for host in ("127.0.0.1", "localhost", "another.localhost"):
        answer = httpx.get(own.url + path, headers={"host": host}, cookies=cookies, timeout=20)
        assert answer.status_code == 421
        assert HOST not in answer.text
        assert "set-cookie" not in answer.headers


def test_events_come_by_the_address_of_the_machine(own: Site) -> None:
    for host in ("127.0.0.1", "evil.example"):
        sent = httpx.post(own.url, content="{}", headers=headers() | {"host": host}, timeout=20)
        assert sent.status_code == 400
        assert ("result record" in sent.text) is (host == "127.0.0.1")
    assert httpx.get(f"{own.url}/healthz", timeout=20).status_code == 200


def test_a_cookie_counts_on_its_own_host_only(own: Site) -> None:
    """One of 127.0.0.1, as earlier releases gave, may be known to every server on this machine."""
    worklist = own.settings.worklist.model_copy(update={"uri": None})
    without = own.settings.model_copy(update={"worklist": worklist})
    elsewhere = Access(own.database, without).begin("dr.adams", "admin")
    here = own.access.begin("dr.adams", "admin")
    assert own.access.person(here)
    assert own.access.person(elsewhere) is None
    assert Access(own.database, without).person(here) is None


@contextmanager
def curious_server() -> Iterator[tuple[str, list[str]]]:
    """Another server of this machine, and the cookies that it is sent."""
    cookies: list[str] = []

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cookies.append(self.headers.get("cookie", ""))
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as address:
        yield address, cookies


def test_no_other_server_of_the_machine_gets_the_cookie(browser: Browser, own: Site) -> None:
    token = own.access.new_token("dr.adams", "admin")
    context = browser.new_context()
    page = context.new_page()
    with curious_server() as (other, cookies):
        page.goto(f"{at(own)}/login?token={token}")
        expect(page.locator("h1")).to_have_text("Worklist")
        page.goto(other)
        page.goto(other.replace("127.0.0.1", "localhost"))
    context.close()
    assert cookies
    assert not any(COOKIE in cookie for cookie in cookies)


def stream(client: httpx.Client, ended: threading.Event, texts: list[str]) -> None:
    with contextlib.suppress(httpx.HTTPError):  # the server stops at the end of a test
        with client.stream("GET", "/live") as response:
            texts.extend(response.iter_lines())
        ended.set()


@pytest.mark.parametrize("how", ["here", "in another process"])
def test_live_updates_end_with_the_session(tmp_path: Path, how: str) -> None:
    """What arrives later is not sent; the stream of another session goes on."""
    with running_site(home(tmp_path)) as site, site.client() as leaving, site.client(who="dr.bell") as staying:
        csrf = site.csrf(leaving)
        ends, lines = [threading.Event(), threading.Event()], ([], [])
        for client, ended, texts in zip((leaving, staying), ends, lines, strict=True):
            threading.Thread(target=stream, args=(client, ended, texts), daemon=True).start()
        wait(lambda: all(any("counters" in line for line in texts) for texts in lines))
        if how == "here":
            with httpx.Client(base_url=site.url, cookies=dict(leaving.cookies)) as other:
                assert other.post("/logout", data={"csrf": csrf}).status_code == 303
        else:
            with closing(Database.open(site.settings)) as database:
                access = Access(database, site.settings)
                person = access.person(leaving.cookies[COOKIE])
                assert person
                access.end(person)
        assert ends[0].wait(3)
        site.send(record(1))
        wait(lambda: any("xray-1" in line for line in lines[1]))
        assert not any("xray-1" in line for line in lines[0])
        assert not ends[1].is_set()


def test_open_page_leaves_the_list_when_its_session_ends(browser: Browser, tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site, opened(browser, site) as page:
        expect(page.locator(".live.on")).to_be_visible()
        cookie = next(item.get("value") for item in page.context.cookies() if item.get("name") == COOKIE)
        person = site.access.person(cookie)
        assert person
        site.access.end(person)
        page.wait_for_url("**/login", timeout=5000)


def begun(site: Site, path: str, cookie: str = "") -> tuple[str, float]:
    """The status line of a POST that declares 400 MB of a form with files and has sent a little; seconds until then."""
    address = httpx.URL(site.url)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {400 * 2**20}\r\naccept: application/json\r\n"
    head += f"content-type: multipart/form-data; boundary=x\r\ncookie: {COOKIE}={cookie}\r\n\r\n"
    part = b'--x\r\ncontent-disposition: form-data; name="say"; filename="a"\r\n\r\n' + b"a" * 200_000
    began = time.monotonic()
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(head.encode() + part)
        status = connection.recv(64).decode().partition("\r\n")[0]
    return status, time.monotonic() - began


@pytest.mark.parametrize("path", ["/logout", f"/x/{'0' * 32}/readings", f"/x/{'0' * 32}/acknowledge"])
def test_a_form_of_a_stranger_is_not_read(tmp_path: Path, path: str) -> None:
    """However large it is, and whatever the cookie is."""
    with running_site(home(tmp_path)) as site:
        for cookie in ("", "forged"):
            status, seconds = begun(site, path, cookie)
            assert " 401 " in status
            assert seconds < 5


@pytest.mark.parametrize("path", ["/logout", f"/x/{'0' * 32}/readings", "/acknowledge/anything"])
def test_no_form_is_read_beyond_its_bounds(tmp_path: Path, path: str) -> None:
    """Nor that of a reader, or of who has a link from a notice."""
    with running_site(home(tmp_path)) as site:
        assert " 413 " in begun(site, path, site.access.begin("dr.adams", "reader"))[0]
        with site.client("reader") as client:
            small = client.post(path, data={"csrf": site.csrf(client), "comment": "x" * (MAX_FORM_BYTES // 2)})
            assert small.status_code != 413


def test_browser_without_a_session_is_sent_to_sign_in(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site, site.client(None) as client:
        answer = client.post(f"/x/{'0' * 32}/readings", data={"say": "read"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_loopback_transport_keeps_the_host(own: Site) -> None:
    with httpx.Client(transport=LoopbackTransport(), base_url=at(own), timeout=20) as client:
        assert client.get("/login").status_code == 200
