"""Whether a web page sent a request: pages of other sites may not use the predictor through somebody's browser.

Programs send neither Origin nor Sec-Fetch headers. Browsers send Origin with every POST, and no page can prevent it. A
site that points its own name at this machine (DNS rebinding) is of the same origin; its name in Host gives it away
where the predictor listens on this machine alone.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from lungline.errors import LunglineError

_OWN_SITE = {"same-origin", "none"}


class OriginRefused(LunglineError):
    """A request comes from a web page of another site, or for another host."""


def require_own_origin(headers: Headers, *, loopback: bool) -> None:
    """Raises OriginRefused; `loopback` if the predictor listens on this machine alone."""
    host = headers.get("host", "")
    if loopback and host and not _is_local(host):
        raise OriginRefused("The Host header is not this machine's.")
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site.lower() not in _OWN_SITE or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
        raise OriginRefused("Pages of other sites may not use the predictor.")


def is_loopback(address: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name.endswith(".localhost")
