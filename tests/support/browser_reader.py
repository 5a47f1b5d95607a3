"""A reader at work in a real browser."""

from pathlib import Path

from playwright.sync_api import expect

from lungline.datasets import phantom
from lungline.results.readings import PREFIX
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.chromium import running_chromium
from tests.support.worklist_site import record, running_site, wait
from worklist.commands import retrain_check
from worklist.database.access import COOKIE


def correct_on_the_page(settings: Settings) -> ResultRecord:
    """A reader corrects a Normal result to Pneumonia; the reading is in the store afterwards."""
    store = Storage.from_settings(settings)
    store.ensure_buckets(settings.uploads_bucket, settings.results_bucket)
    key = "ward/person41_1.jpeg"
    etag = store.put(settings.uploads_bucket, key, phantom.jpeg(41, opacities=True))
    result = record(41, 0.2, key=key, etag=etag)
    with running_site(settings, store) as site, running_chromium() as browser:
        assert site.send(result).status_code == 204
        page = browser.new_page()
        session = site.access.begin("dr.adams", "reader")
        page.context.add_cookies([{"name": COOKIE, "value": session, "url": site.url}])
        page.goto(f"{site.url}/x/{result.upload.identity}")
        expect(page.locator(".film.ready")).to_be_visible()
        page.keyboard.press("2")
        wait(lambda: retrain_check(settings).labels == 1, 30)
        wait(lambda: list(store.list(settings.results_bucket, PREFIX)), 30)
        page.close()
    return result


def exported(settings: Settings) -> list[Path]:
    """The images exported for training runs of this home."""
    return sorted((settings.home / "feedback").glob("*/*/*/*"))
