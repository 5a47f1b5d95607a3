"""Lamp and list are right, or say that they are not, within 20 seconds, whatever the network does."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.exc import OperationalError

from tests.support.network_proxy import Network, running_network
from tests.support.object_store import free_ports
from tests.support.worklist_browser import sign_in
from tests.support.worklist_site import Site, home, record, wait
from worklist.database.access import COOKIE, Access
from worklist.database.ingest import ingest
from worklist.database.session import Database

LIMIT = 20_000
ROWS = ".list tbody tr"


@pytest.fixture
def network(site: Site) -> Iterator[Network]:
    with running_network(site.url) as network:
        yield network


@pytest.fixture
def page(browser: Browser, site: Site, network: Network) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, site, url=network.url)
    page.goto(network.url)
    expect(page.locator("#live.on")).to_have_text("live")
    yield page
    context.close()


def goes_off(page: Page) -> None:
    """The lamp goes off in time, and the list looks stale."""
    expect(page.locator("#live.off")).to_contain_text("no connection", timeout=LIMIT)
    assert page.evaluate("getComputedStyle(document.querySelector('.list')).opacity") == "0.55"


@pytest.mark.parametrize("mode", ["silent", "refuse"])
def test_lost_network_is_shown_and_the_list_catches_up(page: Page, site: Site, network: Network, mode: str) -> None:
    network.mode = "silent" if mode == "silent" else "refuse"
    site.send(record())
    goes_off(page)
    page.wait_for_timeout(8000)
    assert page.locator("#live.off").count() == 1
    network.mode = "pass"
    expect(page.locator("#live.on")).to_have_text("live", timeout=LIMIT)
    expect(page.locator(ROWS)).to_have_count(1)


@pytest.mark.parametrize("mode", ["buffer", "late"])
def test_stream_that_is_held_back_is_replaced_by_loading(page: Page, site: Site, network: Network, mode: str) -> None:
    """A proxy that buffers, or passes everything much later."""
    network.mode = "buffer" if mode == "buffer" else "late"
    site.send(record(1))
    expect(page.locator("#live.slow")).to_have_text("updating every 6 s", timeout=LIMIT)
    expect(page.locator(ROWS)).to_have_count(1)
    site.send(record(2))
    expect(page.locator(ROWS)).to_have_count(2, timeout=LIMIT)
    network.mode = "silent"
    goes_off(page)


def test_stream_that_is_late_from_the_start_is_never_live(browser: Browser, site: Site, network: Network) -> None:
    network.mode, network.delay = "late", 15.0
    page = browser.new_context().new_page()
    sign_in(page, site, url=network.url)
    page.goto(network.url)
    page.evaluate(
        "window.wasLive = false; setInterval(() => { window.wasLive ||= !!document.querySelector('#live.on'); }, 50)"
    )
    expect(page.locator("#live.slow")).to_be_visible(timeout=LIMIT)
    page.wait_for_timeout(8000)
    assert not page.evaluate("window.wasLive")
    page.context.close()


def test_computer_that_slept_shows_it_at_once(browser: Browser, site: Site, network: Network) -> None:
    page = browser.new_context().new_page()
    page.clock.install()
    sign_in(page, site, url=network.url)
    page.goto(network.url)
    expect(page.locator("#live.on")).to_have_text("live")
    network.mode = "silent"
    site.send(record())
    page.clock.fast_forward("01:00:00")
    expect(page.locator("#live.off")).to_contain_text("no connection", timeout=2000)
    network.mode = "pass"
    page.clock.run_for(7000)
    expect(page.locator("#live.on")).to_have_text("live", timeout=LIMIT)
    expect(page.locator(ROWS)).to_have_count(1)
    page.context.close()


def test_clock_that_is_set_does_not_end_live_updates(page: Page, site: Site) -> None:
    page.evaluate("const now = Date.now; Date.now = () => now() - 7200000")
    page.wait_for_timeout(9000)
    expect(page.locator("#live.on")).to_have_text("live", timeout=LIMIT)
    site.send(record())
    expect(page.locator(ROWS)).to_have_count(1, timeout=3000)


def test_database_that_is_away_is_shown(page: Page, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is fine, but nobody knows what is new."""
    live = site.app.state.worklist.live
    monkeypatch.setattr(live, "_poll", lambda: (_ for _ in ()).throw(OperationalError("", {}, Exception())))
    expect(page.locator("#live:not(.on)")).to_be_visible(timeout=LIMIT)
    monkeypatch.undo()
    expect(page.locator("#live.on")).to_have_text("live", timeout=LIMIT)


def test_hidden_tab_is_right_when_it_is_shown_again(page: Page, site: Site, network: Network) -> None:
    """Browsers hardly run timers of hidden tabs."""
    page.evaluate("for (let id = 0; id < 1000; id += 1) clearInterval(id)")
    network.mode = "silent"
    page.wait_for_timeout(13000)
    assert page.locator("#live.on").count() == 1  # nobody sees it
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#live.off")).to_be_visible(timeout=1000)


def test_stopped_server_is_shown_and_found_again(browser: Browser, tmp_path: Path) -> None:
    settings, port = home(tmp_path), free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"LUNGLINE_HOME": str(tmp_path), "LUNGLINE_S3_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "worklist", "--http_port", str(port)]
    with subprocess.Popen(command, env=environment) as server:
        try:
            wait(lambda: _answers(url), 60)
            database = Database.open(settings)
            cookie = Access(database, settings).begin("dr.adams", "admin")
            database.close()
            page = browser.new_context().new_page()
            page.context.add_cookies([{"name": COOKIE, "value": cookie, "url": url}])
            page.goto(url)
            expect(page.locator("#live.on")).to_have_text("live")
            begin = time.monotonic()
            server.send_signal(signal.SIGSTOP)
            goes_off(page)
            assert time.monotonic() - begin < LIMIT / 1000
            assert re.search(r"since \d", page.locator("#live").inner_text())
            server.send_signal(signal.SIGCONT)
            with closing(Database.open(settings)) as database:
                ingest(database, record())
            expect(page.locator("#live.on")).to_have_text("live", timeout=LIMIT)
            expect(page.locator(ROWS)).to_have_count(1)
            page.context.close()
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
