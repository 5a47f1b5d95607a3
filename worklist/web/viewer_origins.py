"""Which pages of other sites may use DICOMweb from a browser (CORS): those of the viewers that the settings name.

A page needs the token as any viewer does; cookies are never taken from it. The worklist's own pages stay closed to all.
"""

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from lungline.errors import SettingsError
from worklist.web.security import DICOMWEB

_ORIGIN = re.compile(r"https?://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")
# How long a browser remembers an answer, in seconds.
_REMEMBERED = 600


def origins(text: str) -> list[str]:
    """The origins that a setting lists. Raises SettingsError for one that is none, such as `*`."""
    listed = [each.strip() for each in text.split(",") if each.strip()]
    for each in listed:
        if not _ORIGIN.fullmatch(each):
            raise SettingsError(f"worklist.viewer_origins: expected https://HOST or https://HOST:PORT, not {each!r}.")
    return listed


class ViewerOrigins:
    """Lets pages of these origins read answers of DICOMweb, and no others."""

    def __init__(self, app: ASGIApp, allowed: list[str]) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=allowed,
            allow_methods=["GET"],
            allow_headers=["authorization", "accept"],
            expose_headers=["warning"],
            max_age=_REMEMBERED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        is_dicomweb = scope["type"] == "http" and scope["path"].startswith(f"{DICOMWEB}/")
        await (self._shared if is_dicomweb else self._app)(scope, receive, send)
