"""Brings whoever is at this machine to the worklist, signed in."""

import html
import os
import sys
import webbrowser

from laptop import stack
from laptop.home import Home
from lungline.settings import Settings
from worklist.access import write_private
from worklist.commands import login_url

PAGE = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}"><title>Worklist</title>'


def invite(settings: Settings) -> str:
    """A link that opens the worklist of the running stack once, within a day. Raises StackError."""
    stack.wait(settings, "worklist")
    return login_url(stack.connect(settings))


def open_browser(settings: Settings, link: str) -> bool:
    """Open a link in the browser of whoever sits here; False where there is no screen.

    A command line may be read by everybody on this machine, so the browser is given a private file that leads on.
    """
    if not _has_screen():
        return False
    page = Home(settings.home.absolute()).file("worklist", "open.html")
    write_private(page, PAGE.format(link=html.escape(link)))
    return webbrowser.open(page.as_uri())


def _has_screen() -> bool:
    if sys.platform in {"darwin", "win32"}:
        return "SSH_CONNECTION" not in os.environ
    # Without one, the only browsers are those that would take over the terminal.
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
