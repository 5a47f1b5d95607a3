"""Shortcuts work with Caps Lock and on other keyboard layouts, and only where they are meant."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from lungline.storage.s3 import Storage
from tests.support.worklist_browser import film, opened, upload
from tests.support.worklist_site import home, running_site

# What a browser reports for the key, its place, and whether Shift is held; and the shortcut that it stands for.
KEYS = {
    "caps-lock": ("C", "KeyC", False, "c"),
    "caps-lock-with-shift": ("c", "KeyC", True, ""),
    "shift": ("C", "KeyC", True, ""),
    "russian-c": ("с", "KeyC", False, "c"),
    "russian-caps-lock": ("С", "KeyC", False, "c"),
    "russian-with-shift": ("С", "KeyC", True, ""),
    "russian-x": ("ч", "KeyX", False, "x"),
    "russian-bracket": ("х", "BracketLeft", False, "["),
    "russian-question-mark": (",", "Slash", True, ","),
    "greek": ("ψ", "KeyC", False, "c"),
    "hebrew": ("ב", "KeyC", False, "c"),
    "arabic": ("ؤ", "KeyC", False, "c"),
    "korean": ("ㅊ", "KeyC", False, "c"),
    "arabic-digit": ("١", "Digit1", False, "1"),
    "dvorak-c": ("c", "KeyI", False, "c"),
    "dvorak-j-at-c": ("j", "KeyC", False, "j"),
    "dvorak-comma-at-w": (",", "KeyW", False, ","),
    "azerty-1": ("&", "Digit1", False, "1"),
    "azerty-1-with-shift": ("1", "Digit1", True, "1"),
    "azerty-2": ("é", "Digit2", False, "2"),
    "us-exclamation-mark": ("!", "Digit1", True, "!"),
    "numpad": ("2", "Numpad2", False, "2"),
    "dead-key": ("Dead", "BracketLeft", False, "["),
    "input-method": ("Process", "KeyC", False, "c"),
    "escape": ("Escape", "Escape", False, "Escape"),
    "zoom-on-german": ("+", "BracketRight", False, "+"),
}
PRESS = """([key, code, shiftKey]) => document.dispatchEvent(
  new KeyboardEvent("keydown", { key, code, shiftKey, bubbles: true, cancelable: true }))"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path, store: Storage) -> Iterator[Page]:
    result = upload(store, 1)
    with running_site(home(tmp_path), store) as site:
        site.send(result)
        with opened(browser, site, f"/x/{result.upload.identity}") as page:
            film(page)
            yield page


def test_every_layout_has_its_shortcuts(page: Page) -> None:
    names = {name: page.evaluate("([key, code, shiftKey]) => page.key({ key, code, shiftKey })", list(press[:3]))
             for name, press in KEYS.items()}  # fmt: skip
    assert names == {name: press[3] for name, press in KEYS.items()}


def test_view_keys_work_with_caps_lock_and_cyrillic(page: Page) -> None:
    heat = page.locator("#heat")
    for key in ("O", "щ", "Щ", "ο"):
        page.evaluate(PRESS, [key, "KeyO", False])
        expect(heat).to_have_css("opacity", "0")
        page.evaluate(PRESS, [key, "KeyO", False])
        expect(heat).to_have_css("opacity", "0.6")


@pytest.mark.parametrize("name", ["caps-lock", "russian-c", "greek", "azerty-2", "input-method"])
def test_reading_keys_work_on_other_layouts(page: Page, name: str) -> None:
    page.evaluate(PRESS, list(KEYS[name][:3]))
    expect(page.locator(".empty")).to_contain_text("Everything is read", timeout=15000)


def test_typing_a_comment_is_no_shortcut(page: Page) -> None:
    page.keyboard.press("m")
    page.keyboard.type("Cc 1x с Ψ")
    assert page.locator("#comment").input_value() == "Cc 1x с Ψ"
    page.keyboard.press("Control+c")
    expect(page.get_by_role("button", name="Confirm Pneumonia")).to_be_visible()
