"""An ASGI app that serves the inference routes itself and passes every other request to KServe's app.

FastAPI's dozen layers cost as much as predicting an image, and the inference routes need none of them. They need limits
on body size, on seconds and on requests in flight, a thread for the work, and errors as JSON.
"""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prometheus_client import Histogram
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import Busy, EventMalformed, ImageRefused, LunglineError, Unavailable
from serving import metrics
from serving.bodies import decompress
from serving.http import (
    BodyTooLarge,
    BodyTooSlow,
    Handler,
    MediaTypeUnsupported,
    MethodNotAllowed,
    Reply,
    Request,
    RequestMalformed,
    RouteNotFound,
    json_reply,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppLimits:
    """What the app accepts: requests that queue, queue in memory."""

    body_seconds: float = 30.0
    # Longer than the slowest upload that still succeeds (its store calls at their limits).
    answer_seconds: float = 100.0
    requests: int = 128
    """Requests in flight."""
    bodies: int = 4
    """Bodies of the largest size that are held in memory at once."""


class InferenceApp:
    """Serves `routes` (POST, by path) on the threads of `pool`; passes everything else to `fallback`.

    `max_body` is the largest body in bytes.
    """

    def __init__(
        self,
        routes: Mapping[str, Handler],
        fallback: ASGIApp,
        pool: ThreadPoolExecutor,
        max_body: int,
        limits: AppLimits = AppLimits(),
    ) -> None:
        self._routes = [_Route.of(path, handler) for path, handler in routes.items()]
        self._fallback = fallback
        self._pool = pool
        self._max_body = max_body
        self._limits = limits
        # Only the event loop's thread touches these two.
        self._free_requests = limits.requests
        self._free_bytes = limits.bodies * max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._route(scope)
        if route is None:
            await self._fallback(scope, receive, _counting(scope, send))
            return
        try:
            reply = await self._admit(scope, receive, route)
        except Exception as exc:  # noqa: BLE001 - nothing above could answer the request
            reply = error_reply(exc)
            level = {500: logging.ERROR, 503: logging.WARNING}.get(reply.status, logging.INFO)
            _log.log(level, "request failed", exc_info=exc, extra={"status": reply.status, "route": route.path})
        metrics.request(_method(scope), route.path, reply.status).inc()
        await _send(reply, send)

    def _route(self, scope: Scope) -> "_Route | None":
        if scope["type"] != "http":
            return None
        return next((route for route in self._routes if route.pattern.fullmatch(scope["path"])), None)

    async def _admit(self, scope: Scope, receive: Receive, route: "_Route") -> Reply:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{route.path} takes POST requests only; /docs shows examples.")
        headers = Headers(scope=scope)
        size = _content_length(headers, self._max_body)
        if size > self._max_body:
            raise BodyTooLarge(f"The body has more than {self._max_body} bytes.")
        if self._free_requests < 1 or self._free_bytes < size:
            raise Busy("Too many requests are in flight; try again.")
        self._free_requests -= 1
        self._free_bytes -= size
        try:
            body = await self._body(receive)
            query, version = QueryParams(scope["query_string"]), route.version_in(scope["path"])
            return await self._work(route, Request(headers, query, body, datetime.now(UTC), version))
        finally:
            self._free_requests += 1
            self._free_bytes += size

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BodyTooSlow("The connection was closed before the body was complete.")
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._max_body:
                        raise BodyTooLarge(f"The body has more than {self._max_body} bytes.")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise BodyTooSlow(f"The body took longer than {self._limits.body_seconds:.0f} s.") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _work(self, route: "_Route", request: Request) -> Reply:
        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._handle, route, request)
        finally:
            metrics.IN_FLIGHT.dec()
            route.seconds.observe(time.perf_counter() - started)

    def _handle(self, route: "_Route", request: Request) -> Reply:
        if "content-encoding" in request.headers:
            request = replace(request, body=decompress(request.body, request.headers, self._max_body))
        return route.handler(request)


@dataclass(frozen=True, slots=True)
class _Route:
    """A path, which may have `{version}` in it; its handler and its metric."""

    path: str
    handler: Handler
    pattern: re.Pattern[str]
    seconds: Histogram

    @classmethod
    def of(cls, path: str, handler: Handler) -> "_Route":
        pattern = re.escape(path).replace(re.escape("{version}"), "(?P<version>[^/]{1,200})")
        return cls(path, handler, re.compile(pattern), metrics.SECONDS.labels(path))

    def version_in(self, path: str) -> str | None:
        match = self.pattern.fullmatch(path)
        return match.groupdict().get("version") if match else None


# The status of each error; the first that matches counts. Knative retries 408 and 5xx, other 4xx never.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (EventMalformed, 400),
    (RequestMalformed, 400),
    (ImageRefused, 400),
    (RouteNotFound, 404),
    (MethodNotAllowed, 405),
    (BodyTooSlow, 408),
    (BodyTooLarge, 413),
    (MediaTypeUnsupported, 415),
    (Unavailable, 503),
    (TimeoutError, 503),
    (Exception, 500),
)


def error_reply(exc: Exception) -> Reply:
    """The response to an error: `{"error": sentence}`, with the `reason` code of a refused image."""
    status = next(status for kind, status in _STATUS if isinstance(exc, kind))
    if isinstance(exc, LunglineError):
        sentence = str(exc)
    else:
        sentence = (
            "The request took too long; try again." if status == 503 else "The predictor failed; its log says why."
        )
    reason = {"reason": exc.reason} if isinstance(exc, ImageRefused) else {}
    return json_reply({"error": sentence} | reason, status, _HEADERS.get(status))


_HEADERS = {
    405: {"allow": "POST"},
    408: {"connection": "close"},
    413: {"connection": "close"},
    415: {"accept-encoding": "gzip, deflate"},
    503: {"retry-after": "1"},
}


def _content_length(headers: Headers, default: int) -> int:
    """Bytes that a body takes in memory, as the request declares them; `default` when it does not, or compresses."""
    if "content-encoding" in headers:
        return default
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else default


def _counting(scope: Scope, send: Send) -> Send:
    """Count the fallback's responses, under one route label: a client must not choose the labels."""
    if scope["type"] != "http":
        return send
    method = _method(scope)

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            metrics.request(method, "other", message["status"]).inc()
        await send(message)

    return counted


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in {"GET", "HEAD", "POST"} else "other"


async def _send(reply: Reply, send: Send) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in (reply.headers or {}).items()]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
