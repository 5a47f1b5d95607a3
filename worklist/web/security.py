"""What every request and response goes through: the host that it is for, the size of a form, and security headers.

Plain ASGI: a middleware that buffers responses would delay live updates.
"""

from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worklist.database.access import COOKIE

HEALTH = frozenset(("/healthz", "/v2/health/ready"))
# Routes for events, whose senders prove themselves or present a token.
RESULTS, DEAD_LETTERS = "/", "/dead-letters"
EVENTS = frozenset((RESULTS, DEAD_LETTERS))
DICOMWEB = "/dicom-web"
"""Under which viewers search and retrieve, with a token."""


def is_event(scope: Scope) -> bool:
    """Whether a request is for these routes."""
    return scope["method"] == "POST" and scope["path"] in EVENTS


# A reading with its longest comment is far smaller.
MAX_FORM_BYTES = 64 * 1024

# Only our own files; no inline scripts or styles, plug-ins, frames or forms to other sites.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # URLs may hold search terms, which other sites must not see.
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


ELSEWHERE = "The worklist has an address of its own: `lungline status` shows it, `lungline worklist link` signs in."


class KnownHosts(TrustedHostMiddleware):
    """Refuses requests for other host names, which another site may have pointed at this machine (DNS rebinding).

    A cluster's probes address the pod by IP; their responses reveal nothing. With a host name of its own, pages and
    sign-in are there only: browsers send the cookies of 127.0.0.1 to every server on this machine. Events and DICOMweb
    are not: their client is no browser with a cookie, and has a key or a token.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str], own: str | None = None) -> None:
        super().__init__(app, allowed_hosts=[*allowed_hosts, *([own] if own else [])], www_redirect=False)
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        if scope["type"] == "http" and scope["path"] in HEALTH:
            await self.app(scope, receive, send)
        elif self._is_elsewhere(scope):
            await JSONResponse({"error": ELSEWHERE}, 421)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _is_elsewhere(self, scope: Scope) -> bool:
        if self._own is None or scope["type"] != "http" or is_event(scope) or scope["path"].startswith(f"{DICOMWEB}/"):
            return False
        return HTTPConnection(scope).headers.get("host", "").partition(":")[0].lower() != self._own


class Forms:
    """Reads a form only of who is signed in, and no more of it than a form may have.

    Whoever reads a body first and asks afterwards writes what strangers send to the disk.
    """

    def __init__(self, app: ASGIApp, is_signed_in: Callable[[str | None], bool]) -> None:
        self._app = app
        self._is_signed_in = is_signed_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or scope["path"] in EVENTS:
            await self._app(scope, receive, send)
            return
        # A link in a notice is its own proof, and its form is a few bytes.
        if not scope["path"].startswith("/acknowledge/"):
            cookie = HTTPConnection(scope).cookies.get(COOKIE)
            if not await run_in_threadpool(self._is_signed_in, cookie):
                await _sign_in_first(scope)(scope, receive, send)
                return
        await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return {"type": "http.disconnect"} if size > MAX_FORM_BYTES else message

        async def answered(message: Message) -> None:
            if size <= MAX_FORM_BYTES:  # else it answers a body that it has not seen
                await send(message)

        await self._app(scope, counted, answered)
        if size > MAX_FORM_BYTES:
            await JSONResponse({"error": f"A form has at most {MAX_FORM_BYTES} bytes."}, 413)(scope, receive, send)


def _sign_in_first(scope: Scope) -> Response:
    """A browser's page goes to the sign-in; a script is answered."""
    if "text/html" in HTTPConnection(scope).headers.get("accept", ""):
        return RedirectResponse("/login", status_code=303)
    return JSONResponse({"error": "Sign in to continue."}, 401)


class SecurityHeaders:
    """Adds the headers to every response; browsers cache nothing unless a response allows it."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = HEADERS | ({"strict-transport-security": "max-age=31536000"} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                headers = {"cache-control": "no-store"} | self._headers
                more = [(name.encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in present)]
            await send(message)

        await self._app(scope, receive, add)
