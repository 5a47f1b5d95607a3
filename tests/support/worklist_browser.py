"""Pages of a worklist in a real browser: uploads with images, signed-in pages, tabs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Error, Page, expect

from lungline.datasets import phantom
from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.results.records import LungFacts, ResultRecord
from lungline.storage.s3 import Storage
from tests.support.worklist_site import Site, record
from worklist.database.access import COOKIE, Role

# Two squares, each a quarter of the film high.
LUNGS = LungFacts(
    outlines=((250, 250, 450, 250, 450, 500, 250, 500), (550, 250, 750, 250, 750, 500, 550, 500)), heat_inside=0.93
)


def upload(store: Storage, number: int, probability: float = 0.9, **changes: Any) -> ResultRecord:
    """An X-ray and its heatmap in the store, and the result that the predictor would send."""
    data = phantom.jpeg(number, opacities=probability > 0.5)
    key = changes.pop("key", f"ward/xray-{number}.jpeg")
    result = record(number, probability, key=key, etag=store.put("xray-uploads", key, data), heatmap=True, **changes)
    cam = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    png = heatmap_png(decode(data), cam, Preparation())
    store.put("lungline-results", result.heatmap or "", png)
    return result


def sign_in(  # who, and with which rights
    page: Page,
    site: Site,
    who: str = "dr.adams",
    role: Role = "admin",
    url: str | None = None,
    *,
    patients: bool = False,
) -> None:
    """Give a page the cookie of a new session."""
    cookie = site.access.begin(who, role, patients=patients)
    page.context.add_cookies([{"name": COOKIE, "value": cookie, "url": url or site.url}])


@contextmanager
def opened(
    browser: Browser,
    site: Site,
    path: str = "/",
    size: tuple[int, int] = (1280, 800),
    role: Role = "admin",
    *,
    patients: bool = False,
) -> Iterator[Page]:
    """A page of a signed-in user; it must end without errors, dialogs or violations of the security policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    sign_in(page, site, role=role, patients=patients)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(site.url + path)
    yield page
    assert _evaluated(page, "window.hacked") is None
    context.close()
    assert problems == []


def _evaluated(page: Page, expression: str) -> Any:
    """The value of an expression, on the next page where this one is just being left."""
    try:
        return page.evaluate(expression)
    except Error:
        page.wait_for_load_state()
        return page.evaluate(expression)


def film(page: Page) -> None:
    """Wait until the viewer shows the X-ray."""
    expect(page.locator(".film.ready")).to_be_visible()
