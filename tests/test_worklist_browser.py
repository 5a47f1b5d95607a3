import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect
from sqlalchemy import select

from lungline.datasets import phantom
from lungline.datasets.opening import open_dataset
from lungline.storage.s3 import Storage
from tests.support.worklist_browser import LUNGS, film, opened, upload
from tests.support.worklist_screenshots import seed, shoot
from tests.support.worklist_site import Site, home, record, running_site, wait
from worklist.commands import login_url
from worklist.database import entries
from worklist.database.access import COOKIE
from worklist.database.models import ReadingRow

HOSTILE = (
    "<script>window.hacked=1</script>.jpeg",
    '"><img src=x onerror=window.hacked=1>.jpeg',
    "'-window.hacked=1-'.jpeg",
    "{{7*7}}${7*7}</td></tr></table><svg onload=window.hacked=1>.jpeg",
    "javascript:window.hacked=1//\u202egepj.exe",
)


@pytest.fixture
def site(tmp_path: Path, store: Storage) -> Iterator[Site]:
    with running_site(home(tmp_path), store) as site:
        yield site


def test_upload_appears_live_within_three_seconds(browser: Browser, site: Site, store: Storage) -> None:
    site.send(upload(store, 1, 0.5))
    with opened(browser, site) as page:
        expect(page.locator("#live")).to_have_text("live")
        page.evaluate("window.same = true")
        assert site.send(upload(store, 2)).status_code == 204
        rows = page.locator(".list tbody tr")
        expect(rows).to_have_count(2, timeout=3000)
        expect(rows.first).to_contain_text("xray-2.jpeg")  # the more urgent one is put above
        expect(page.locator("[data-counter=uploaded]")).to_have_text("2")
        expect(page).to_have_title("(1) Worklist · Lungline")
        assert page.evaluate("window.same")


def test_list_catches_up_after_an_outage(browser: Browser, site: Site, store: Storage, tmp_path: Path) -> None:
    with opened(browser, site) as page:
        expect(page.locator("#live")).to_have_text("live")
        page.context.set_offline(True)
        page.evaluate("source.close(); follow()")
        expect(page.locator("#live")).to_contain_text("no connection")
        site.send(upload(store, 3))
        page.context.set_offline(False)
        expect(page.locator(".list tbody tr")).to_have_count(1, timeout=15000)


def test_whole_list_can_be_read_by_keyboard(browser: Browser, site: Site, store: Storage) -> None:
    uploads = [upload(store, number, risk) for number, risk in ((10, 0.95), (11, 0.8), (12, 0.5))]
    for result in uploads:
        site.send(result)
    with opened(browser, site) as page:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        film(page)
        page.keyboard.press("c")
        page.wait_for_url(f"**/x/{uploads[1].upload.identity}")
        film(page)
        page.keyboard.press("m")
        page.keyboard.type("clear on both sides, 123")
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        page.wait_for_url(f"**/x/{uploads[2].upload.identity}")
        film(page)
        assert page.locator(".primary").count() == 0  # there is nothing to confirm in Unsure
        page.keyboard.press("3")
        expect(page.locator(".empty")).to_contain_text("Everything is read")
    with site.database.reading() as session:
        stored = [
            (reading.action, reading.verdict, reading.comment)
            for reading in session.scalars(select(ReadingRow).order_by(ReadingRow.number))
        ]
    assert stored == [
        ("confirmed", "Pneumonia", ""),
        ("corrected", "Normal", "clear on both sides, 123"),
        ("corrected", "Not usable", ""),
    ]
    wait(lambda: len(list(store.list("lungline-results", "readings/"))) >= 3)


def test_overlay_window_zoom_and_inversion_work(browser: Browser, site: Site, store: Storage) -> None:
    result = upload(store, 20)
    site.send(result)
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        film(page)
        heat, slope = page.locator("#heat"), page.locator("feFuncG")
        assert heat.evaluate("image => image.naturalWidth") > 0
        expect(heat).to_have_css("opacity", "0.6")
        page.keyboard.press("o")
        expect(heat).to_have_css("opacity", "0")
        page.keyboard.press("o")
        expect(heat).to_have_css("opacity", "0.6")
        page.keyboard.press("i")
        assert float(slope.get_attribute("slope") or 0) == -1
        page.keyboard.press("w")
        assert float(slope.get_attribute("slope") or 0) < -1
        before = page.locator("#film").bounding_box()
        page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        after = page.locator("#film").bounding_box()
        assert before
        assert after
        assert after["width"] > before["width"]
        page.keyboard.press("r")
        assert page.locator("#film").bounding_box() == before
        assert float(slope.get_attribute("slope") or 0) == 1
        page.mouse.move(300, 300)
        page.mouse.wheel(0, -400)
        zoomed = page.locator("#film").bounding_box()
        assert zoomed
        assert zoomed["width"] > before["width"]


def test_outline_of_the_lungs_lies_over_the_film(browser: Browser, site: Site, store: Storage) -> None:
    """On a key and a button, wherever the film is zoomed and moved to, and from one X-ray to the next."""
    results = [upload(store, 21 + number, 0.9 - number / 10, lungs=LUNGS) for number in range(2)]
    for result in results:
        site.send(result)
    with opened(browser, site, f"/x/{results[0].upload.identity}") as page:
        film(page)
        outline, button = page.get_by_role("img", name=re.compile("Outline of the lungs")), page.locator("#lungs")
        expect(outline).to_be_hidden()
        expect(button).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("l")
        expect(outline).to_be_visible()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#announce")).to_contain_text("93% of the heatmap lies inside")
        page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        box, first = page.locator("#xray").bounding_box(), page.locator(".lungs polygon").first.bounding_box()
        assert box
        assert first
        assert (first["x"] - box["x"]) / box["width"] == pytest.approx(0.25, abs=0.02)
        assert (first["y"] + first["height"] - box["y"]) / box["height"] == pytest.approx(0.5, abs=0.02)
        page.keyboard.press("j")
        page.wait_for_url(re.compile(results[1].upload.identity))
        film(page)
        expect(outline).to_be_visible()
        button.click()
        expect(outline).to_be_hidden()
        page.keyboard.press("?")
        expect(page.locator("#help")).to_contain_text("outline of the lungs")


def test_result_without_lungs_has_no_outline(browser: Browser, site: Site, store: Storage) -> None:
    """As all of earlier releases."""
    result = upload(store, 23)
    site.send(result)
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        film(page)
        page.keyboard.press("l")
        expect(page.locator("#lungs, .lungs")).to_have_count(0)


def test_filters_and_search_work_without_loading_the_page_again(browser: Browser, site: Site, store: Storage) -> None:
    for number, risk in ((30, 0.9), (31, 0.1), (32, 0.5)):
        site.send(upload(store, number, risk))
    with opened(browser, site) as page:
        page.evaluate("window.same = true")
        page.keyboard.press("/")
        page.keyboard.type("XRAY-31")
        expect(page.locator(".list tbody tr")).to_have_count(1)
        expect(page.locator(".list tbody tr")).to_contain_text("Normal")
        assert page.evaluate("window.same")
        site.send(upload(store, 33))
        page.fill("[type=search]", "")
        expect(page.locator(".list tbody tr")).to_have_count(4)
        page.get_by_role("link", name="Unsure", exact=True).click()
        expect(page.locator(".list tbody tr")).to_have_count(1)


def test_result_between_page_and_stream_is_shown(browser: Browser, site: Site, store: Storage) -> None:
    live = site.app.state.worklist.live
    page = browser.new_context().new_page()

    def arrive(route: Route) -> None:
        before = live.mark
        site.send(upload(store, 35))
        wait(lambda: live.mark != before)
        route.continue_()

    page.route("**/live*", arrive, times=1)
    page.context.add_cookies([{"name": COOKIE, "value": site.access.begin("dr.adams", "admin"), "url": site.url}])
    page.goto(site.url)
    expect(page.locator(".list tbody tr")).to_have_count(1)
    page.context.close()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_as_text(browser: Browser, site: Site, store: Storage, hostile: str) -> None:
    result = upload(store, 40, key=f"ward/{hostile}", warnings=(hostile,))
    with opened(browser, site) as page:
        site.send(result)
        expect(page.locator(".list tbody tr")).to_have_count(1)
        # An override of the writing direction is shown as an escape: it would turn the name around.
        shown = hostile.rstrip("/").rpartition("/")[2].replace("\u202e", r"\u202e")
        expect(page.locator(".xray a")).to_have_text(shown)
        with site.client() as client:
            site.submit_reading(client, result.upload.identity, "read", hostile)
        page.goto(f"{site.url}/x/{result.upload.identity}?view=all&q=%22%3E%3Cscript%3Ewindow.hacked=1%3C/script%3E")
        film(page)
        expect(page.locator(".readings q")).to_have_text(hostile)
        page.goto(f"{site.url}/?view=all&q=%3Cscript%3Ewindow.hacked=1%3C/script%3E")
        expect(page.locator(".empty")).to_contain_text("<script>window.hacked=1</script>")


def test_viewer_reports_unavailable_store_and_list_works(browser: Browser, tmp_path: Path, store: Storage) -> None:
    result = upload(store, 50)
    with running_site(home(tmp_path)) as site:
        site.send(result)
        with opened(browser, site) as page:
            expect(page.locator(".list tbody tr")).to_have_count(1)
            page.goto(f"{site.url}/x/{result.upload.identity}")
            expect(page.locator("#stage-message")).to_contain_text("does not answer", timeout=30000)
            expect(page.get_by_role("button", name="Confirm Pneumonia")).to_be_visible()


def test_viewer_reports_an_overwritten_image(browser: Browser, site: Site, store: Storage) -> None:
    result = upload(store, 51)
    site.send(result)
    store.put("xray-uploads", result.upload.key, phantom.jpeg(99, opacities=False))
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        expect(page.locator("#stage-message")).to_contain_text("overwritten")


def test_admin_opens_the_dossier_of_an_upload(browser: Browser, site: Site, store: Storage, tmp_path: Path) -> None:
    result = upload(store, 77)
    site.send(result)
    with opened(browser, site, f"/x/{result.upload.identity}") as page:
        with page.expect_popup() as opening:
            page.get_by_role("link", name="All that happened").click()
        dossier = opening.value
        expect(dossier.get_by_role("heading", level=1)).to_have_text(f"Upload {result.upload.identity}")
        assert dossier.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert dossier.evaluate("getComputedStyle(document.querySelector('.facts')).display") == "grid"
        dossier.screenshot(path=tmp_path / "dossier.png", full_page=True)
    with opened(browser, site, f"/x/{result.upload.identity}", role="reader") as page:
        expect(page.get_by_role("link", name="All that happened")).to_have_count(0)
        response = page.goto(f"{site.url}/x/{result.upload.identity}/dossier")
        assert response
        assert response.status == 403


def test_link_signs_in_and_leaves_no_token_in_the_url(browser: Browser, site: Site) -> None:
    page = browser.new_page()
    page.goto(login_url(site.settings, site.url))
    assert page.url == f"{site.url}/"
    expect(page.get_by_text("Everything is read")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.goto(site.url)
    assert page.url == f"{site.url}/login"
    page.close()


def test_a_reader_reads_but_neither_exports_nor_audits(browser: Browser, site: Site, store: Storage) -> None:
    result = upload(store, 55)
    site.send(result)
    with opened(browser, site, role="reader") as page:
        expect(page.locator(".list tbody tr")).to_have_count(1)
        assert page.get_by_role("link", name="Audit log").count() == 0
        assert page.get_by_role("link", name="CSV").count() == 0
        page.goto(f"{site.url}/audit")
        expect(page.get_by_text("Only administrators may do this.")).to_be_visible()
        page.goto(f"{site.url}/x/{result.upload.identity}")
        page.get_by_role("button", name="Confirm Pneumonia").click()
        expect(page.locator(".empty")).to_contain_text("Everything is read")
        page.goto(f"{site.url}/x/{result.upload.identity}?view=all")
        expect(page.locator(".readings")).to_contain_text("dr.adams")


@pytest.mark.parametrize("size", [(1280, 800), (1024, 768), (820, 1180), (390, 844)])
def test_pages_fit_supported_screens(browser: Browser, site: Site, store: Storage, size: tuple[int, int]) -> None:
    result = upload(store, 60, key="a-rather-long-folder-name/" * 5 + "and-a-long-file-name" * 5 + ".jpeg")
    site.send(result)
    for path in ("/", f"/x/{result.upload.identity}", "/audit", "/notices"):
        with opened(browser, site, path, size) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
            assert page.locator(".list td.xray a").first.is_visible() or path != "/", "each row names its X-ray"
            expect(page.locator(".disclaimer")).to_be_in_viewport(ratio=1)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "--silent", "axe-core@4"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        assert not os.environ.get("CI"), "CI must reach npm for axe-core"
        pytest.skip("axe-core cannot be fetched from npm")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as file:
        member = file.extractfile("package/axe.min.js")
        assert member
        return member.read().decode()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_reports_no_serious_violation(browser: Browser, site: Site, store: Storage, axe: str, theme: str) -> None:
    doubted = {"lungs": LUNGS, "doubts": ("no-lungs",), "warnings": ("the lungs cannot be outlined: too small",)}
    uploads = [upload(store, 70 + number, risk, **doubted) for number, risk in enumerate((0.5, 0.9, 0.1))]
    for result in [*uploads, record(74, outcome="refused")]:
        site.send(result)
    with site.client() as client:
        site.submit_reading(client, uploads[2].upload.identity, "Pneumonia", "a comment")
    viewer = f"/x/{uploads[0].upload.identity}"
    for path in ("/?view=all", viewer, f"/x/{uploads[2].upload.identity}", "/notices", "/audit", "/nowhere"):
        with opened(browser, site, path) as page:
            page.context.add_cookies([{"name": "theme", "value": theme, "url": site.url}])
            page.reload()
            page.keyboard.press("l")
            page.evaluate(axe)
            report = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})")
            serious = [
                (
                    violation["id"],
                    [node["target"] for node in violation["nodes"]][:5],
                    violation["nodes"][0]["failureSummary"],
                )
                for violation in report["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
            assert serious == [], (path, serious)


def test_screenshots_of_a_full_list_are_taken(browser: Browser, site: Site, store: Storage, tmp_path: Path) -> None:
    """Also on a tablet, where the last images are below the fold, and when an image is gone."""
    seed(site, store, open_dataset("phantom:240", settings=site.settings), 80)
    with site.database.reading() as session:
        newest = entries.latest(session, 1)[0]
    store.put("xray-uploads", newest.key, b"overwritten")
    paths = list(shoot(browser, site.url, site.access.begin("dr.adams", "admin"), tmp_path))
    assert len(paths) == 8
    assert all(path.stat().st_size > 20_000 for path in paths)
