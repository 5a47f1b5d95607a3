"""Screenshots of the worklist: `python -m tests.support.worklist_screenshots FOLDER [--data DATA] [--home HOME]`.

List and viewer, dark and light, at 1280 pixels and on a tablet, with a night's uploads of the test split of a data set
(phantoms by default); risks are drawn at random by label, not predicted. With the home of a running stack, screenshots
of that stack's worklist.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page

from laptop import stack
from lungline.datasets.opening import Dataset, Example, open_dataset
from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support.chromium import running_chromium
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, record, running_site, wait
from worklist.database.access import COOKIE, Access
from worklist.database.session import Database

SIZES = {"1280": (1280, 800), "tablet": (820, 1180)}
WARDS = ("emergency", "ward-3", "paediatrics")


def seed(site: Site, store: Storage, dataset: Dataset, count: int = 60) -> None:
    """A night of uploads with results, and readings of some."""
    dice, noise = random.Random(4), np.random.default_rng(4)
    for number, example in enumerate(_mixed(dataset, count)):
        data = dataset.read(example) if number % 20 != 7 else dataset.read(example)[:500]
        key = f"{dice.choice(WARDS)}/2026-03-01/{example.name.rpartition('/')[2]}"
        etag = store.put("xray-uploads", key, data)
        risk = dice.betavariate(6, 1.5) if example.label else dice.betavariate(1.3, 7)
        arrived = datetime.now(UTC) - timedelta(minutes=1 + dice.expovariate(1 / 180))
        values = {"key": key, "etag": etag, "arrived": arrived, "version": "7" if number % 5 else "6"}
        if number % 20 == 7:
            site.send(record(number, outcome="refused", **values))
            continue
        result = record(number, min(risk, 0.995), heatmap=True, **values)
        png = heatmap_png(decode(data), _spot(noise, risk), Preparation())
        store.put("lungline-results", result.heatmap or "", png)
        site.send(result)
        if number % 9 == 4:
            with site.client() as client:
                site.submit_reading(
                    client, result.upload.identity, "confirmed" if result.label != "Unsure" else "Normal"
                )


def shoot(browser: Browser, url: str, session: str, folder: Path) -> Iterator[Path]:
    """Take screenshots of a worklist, with a session cookie; yields the files."""
    for theme in ("dark", "light"):
        for size, (width, height) in SIZES.items():
            context = browser.new_context(viewport={"width": width, "height": height})
            cookies = {COOKIE: session, "theme": theme}
            context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
            page = context.new_page()
            yield _list(page, url, folder / f"list-{theme}-{size}.png")
            rows = page.locator(".list tbody tr:not(.Refused, .Missing) .xray a")
            rows.nth(min(2, rows.count() - 1)).click()
            page.locator(".film.ready, #stage-message button").first.wait_for()
            page.screenshot(path=folder / f"viewer-{theme}-{size}.png")
            yield folder / f"viewer-{theme}-{size}.png"
            context.close()


def _list(page: Page, url: str, path: Path) -> Path:
    page.goto(f"{url}/?view=all")
    page.locator(".live.on").wait_for()
    # Below the fold of a small screen, images load only when they are scrolled to.
    page.evaluate("for (const image of document.querySelectorAll('.last img')) image.loading = 'eager'")
    wait(lambda: page.evaluate("[...document.querySelectorAll('.last img')].every(image => image.complete)"))
    page.screenshot(path=path)
    return path


def _mixed(dataset: Dataset, count: int) -> list[Example]:
    by_label = [[item for item in dataset.of("test") if item.label == label][: count // 2] for label in (0, 1)]
    return [item for pair in zip_longest(*by_label) for item in pair if item]


def _spot(noise: np.random.Generator, risk: float) -> np.ndarray:
    rows, columns = np.mgrid[0:16, 0:16]
    y, x = noise.uniform(6, 11), noise.choice([4.5, 11.0])
    return (risk * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / noise.uniform(6, 18))).astype(np.float32)


def _of_a_stack(home: Path, browser: Browser, folder: Path) -> Iterator[Path]:
    settings = stack.connect(load_settings({"home": home}))
    with closing(Database.open(settings)) as database:
        session = Access(database, settings).begin("dr.adams", "admin")
    yield from shoot(browser, settings.worklist.uri or "", session, folder)


def _of_a_night(data: str, browser: Browser, folder: Path) -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory() as place,
        running_store(Path(place), "xray-uploads", "lungline-results") as store,
        running_site(Settings(home=Path(home)), store) as site,
    ):
        seed(site, store, open_dataset(data, settings=load_settings()))
        yield from shoot(browser, site.url, site.access.begin("dr.adams", "admin"), folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the screenshots."""
    parser = argparse.ArgumentParser(prog="worklist_screenshots", description="Take screenshots of the worklist.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="phantom:160")
    parser.add_argument("--home", type=Path, help="Home of a running stack.")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with running_chromium() as browser:
        paths = (
            _of_a_stack(options.home, browser, options.folder)
            if options.home
            else _of_a_night(options.data, browser, options.folder)
        )
        for path in paths:
            print(path)


if __name__ == "__main__":
    main()
