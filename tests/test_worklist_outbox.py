"""A reading is kept in the page until the worklist has stored it, and stored once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import delete, select

from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from tests.support.worklist_browser import film, opened, sign_in, upload
from tests.support.worklist_site import START, Site, home, record, running_site, wait
from worklist.database.models import Notice, ReadingRow, Session

COMMENT = "left base, 2 cm"


@pytest.fixture
def site(tmp_path: Path, store: Storage) -> Iterator[Site]:
    with running_site(home(tmp_path), store) as site:
        yield site


@pytest.fixture
def result(site: Site, store: Storage) -> ResultRecord:
    result = upload(store, 1)
    site.send(result)
    return result


def end_sessions(site: Site) -> None:
    with site.database.writing() as session:
        session.execute(delete(Session))


def write_comment(page: Page, result: ResultRecord) -> None:
    film(page)
    page.keyboard.press("m")
    page.keyboard.type(COMMENT)
    page.keyboard.press("Escape")
    assert result.upload.identity in page.url


def readings(site: Site) -> list[tuple[str, str | None, str, str]]:
    with site.database.reading() as session:
        return [(row.action, row.verdict, row.comment, row.reader) for row in session.scalars(select(ReadingRow))]


def stored_once(page: Page, site: Site, action: str, verdict: str | None, reader: str = "dr.adams") -> None:
    """Wait until the reading is stored and the page has moved on; nothing else is stored."""
    for _ in range(400):
        if readings(site):
            break
        page.wait_for_timeout(50)
    expect(page.locator("body.list-page, #outbox:not([hidden])").first).to_be_visible()
    assert readings(site) == [(action, verdict, COMMENT, reader)]


@pytest.mark.parametrize(
    ("press", "stored"),
    [("c", ("confirmed", "Pneumonia")), ("button", ("corrected", "Normal")), ("x", ("read", None))],
)
def test_reading_survives_the_end_of_a_session(
    browser: Browser, site: Site, result: ResultRecord, press: str, stored: tuple[str, str | None]
) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        end_sessions(site)
        if press == "button":
            page.get_by_role("button", name="Normal").click()
        else:
            page.keyboard.press(press)
        expect(page.locator("#outbox")).to_contain_text("Your session has ended. Not saved yet")
        assert page.locator("#comment").input_value() == COMMENT
        assert readings(site) == []
        sign_in(page, site)
        stored_once(page, site, *stored)
        expect(page.locator(".empty")).to_contain_text("Everything is read")


def test_reading_is_sent_from_the_next_page_after_signing_in(
    browser: Browser, site: Site, result: ResultRecord
) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        end_sessions(site)
        page.keyboard.press("2")
        expect(page.locator("#outbox")).to_contain_text("Your session has ended")
        page.evaluate("isFollowingLink = true")
        page.goto(f"{site.url}/login")
        expect(page.locator("#outbox")).to_contain_text("Not saved yet: your reading of xray-1.jpeg")
        sign_in(page, site)
        stored_once(page, site, "confirmed", "Pneumonia")
        expect(page.locator("#outbox")).to_contain_text("Saved: your reading")


def test_reading_is_not_saved_under_another_name(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        end_sessions(site)
        page.keyboard.press("3")
        expect(page.locator("#outbox")).to_contain_text("Your session has ended")
        sign_in(page, site, who="dr.berg")
        expect(page.locator("#outbox")).to_contain_text("by dr.adams. You are signed in as dr.berg")
        assert readings(site) == []
        page.get_by_role("button", name="Save as dr.berg").click()
        stored_once(page, site, "corrected", "Not usable", reader="dr.berg")


def test_a_reading_survives_a_new_session_of_its_reader(browser: Browser, site: Site, result: ResultRecord) -> None:
    """Its page still holds the token of the earlier session."""
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        sign_in(page, site)
        page.keyboard.press("c")
        stored_once(page, site, "confirmed", "Pneumonia")


def test_reading_survives_a_lost_network(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        page.context.set_offline(True)
        page.keyboard.press("c")
        expect(page.locator("#outbox")).to_contain_text("The worklist is not responding")
        page.keyboard.press("1")  # held back: the first choice is still on its way
        page.context.set_offline(False)
        stored_once(page, site, "confirmed", "Pneumonia")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_reading_survives_errors_of_server_and_proxy(
    browser: Browser, site: Site, result: ResultRecord, status: int
) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        page.route("**/readings*", lambda route: route.fulfill(status=status, body="<h1>proxy</h1>"))
        page.reload()  # a page that is open already may get its first request past a new route
        write_comment(page, result)
        page.keyboard.press("c")
        expect(page.locator("#outbox")).to_contain_text("Not saved yet", timeout=15000)
        page.unroute("**/readings*")
        stored_once(page, site, "confirmed", "Pneumonia")


def test_lost_response_does_not_store_twice(browser: Browser, site: Site, result: ResultRecord) -> None:
    def swallow(route: Route) -> None:
        route.fetch()
        route.abort()

    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        page.route("**/readings*", swallow, times=2)
        page.reload()
        write_comment(page, result)
        page.keyboard.press("c")
        expect(page.locator(".empty")).to_contain_text("Everything is read", timeout=15000)
        stored_once(page, site, "confirmed", "Pneumonia")


def test_reading_survives_a_restart(browser: Browser, tmp_path: Path, store: Storage) -> None:
    result = upload(store, 1)
    context = browser.new_context()
    page = context.new_page()
    with running_site(home(tmp_path), store) as site:
        port = int(site.url.rpartition(":")[2])
        site.send(result)
        sign_in(page, site)
        page.goto(f"{site.url}/x/{result.upload.identity}")
        write_comment(page, result)
    page.keyboard.press("c")
    expect(page.locator("#outbox")).to_contain_text("The worklist is not responding")
    with running_site(home(tmp_path), store, port=port) as site:
        wait(lambda: readings(site), 20)
        assert readings(site) == [("confirmed", "Pneumonia", COMMENT, "dr.adams")]
    context.close()


def test_double_click_stores_one_reading(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        page.evaluate(
            "for (const button of document.querySelectorAll('[value=Normal]')) { button.click(); button.click(); }"
        )
        stored_once(page, site, "corrected", "Normal")


def test_replaced_result_is_shown_and_asks_again_with_the_comment(
    browser: Browser, site: Site, result: ResultRecord
) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        changes = {"key": result.upload.key, "etag": result.upload.etag, "version": "2"}
        site.send(record(1, 0.1, done=START.replace(month=6), **changes))
        page.keyboard.press("c")
        expect(page.locator("#outbox")).to_contain_text("changed from Pneumonia (model 1) to Normal (model 2)")
        expect(page.get_by_role("button", name="Confirm Normal")).to_be_visible()
        assert page.locator("#comment").input_value() == COMMENT
        assert readings(site) == []
        page.keyboard.press("c")
        stored_once(page, site, "confirmed", "Normal")


def test_draft_of_a_comment_survives_a_reload(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        page.reload()
        film(page)
        assert page.locator("#comment").input_value() == COMMENT
        end_sessions(site)
        sign_in(page, site, who="dr.berg")
        page.reload()
        film(page)
        assert page.locator("#comment").input_value() == ""  # written by somebody else


def test_discarded_reading_is_not_stored(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        page.context.set_offline(True)
        page.keyboard.press("c")
        page.get_by_role("button", name="Discard").click()
        page.context.set_offline(False)
        page.keyboard.press("1")
        stored_once(page, site, "corrected", "Normal")


def test_acknowledgement_survives_the_end_of_a_session(browser: Browser, tmp_path: Path, store: Storage) -> None:
    with running_site(home(tmp_path, notice_max_age=10**6), store) as site:
        site.send(upload(store, 1))

        def notice() -> Notice | None:
            with site.database.reading() as session:
                return session.scalar(select(Notice).where(Notice.state == "sent"))

        wait(notice)
        with opened(browser, site, "/notices") as page:
            end_sessions(site)
            page.get_by_role("button", name="Acknowledge").click()
            expect(page.locator("#outbox")).to_contain_text("Your session has ended")
            sign_in(page, site)
            page.wait_for_url("**/x/*")
            row = notice()
            assert row
            assert row.acknowledged_by == "dr.adams"


def test_hanging_server_is_reported_and_the_reading_kept(browser: Browser, site: Site, result: ResultRecord) -> None:
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        write_comment(page, result)
        page.evaluate("outbox.timeout = 500")
        held: list[Route] = []
        page.route("**/readings*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks functions
        page.keyboard.press("c")
        expect(page.locator("#outbox")).to_contain_text("The worklist is not responding")
        assert held
        page.unroute("**/readings*")  # what is held ends by its own timeout, and is sent again
        stored_once(page, site, "confirmed", "Pneumonia")
