"""An ASGI app that serves the inference routes itself and passes every other request to KServe's app.

FastAPI's dozen layers cost as much as predicting an image, and the inference routes need none of them. They need limits
on body size, on seconds and on requests in flight, a thread for the work, and errors as JSON.
"""

import asyncio
import logging
import re
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prometheus_client import Histogram
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import EventMalformed, ImageRefused, LunglineError, Unavailable
from lungline.events.cloudevents import MAX_EVENT_BYTES
from lungline.events.proof import ProofRefused
from lungline.events.proof_layer import PROVED
from lungline.memory import MemoryBudget
from serving import metrics
from serving.admission import Admission, AppLimits, Body
from serving.bodies import decompress
from serving.http import (
    BodyTooLarge,
    BodyTooSlow,
    Handler,
    MediaTypeUnsupported,
    MethodNotAllowed,
    NoRoom,
    Reply,
    Request,
    RequestMalformed,
    RouteNotFound,
    json_reply,
)
from serving.origin import OriginRefused, require_own_origin

_log = logging.getLogger(__name__)

# Clients write `instances` first, and events do not have it.
_START = 256
# No more bytes come from one of deflate.
_MOST_INFLATED = 1032


class InferenceApp:
    """Serves `routes` (POST, by path) on threads; passes everything else to `fallback`.

    `max_body` is the largest body in bytes. Requests to `event_paths` have threads and limits of their own, unless they
    hold images: so images never keep events waiting.
    """

    def __init__(
        self,
        routes: Mapping[str, Handler],
        fallback: ASGIApp,
        pools: "Pools",
        max_body: int,
        limits: AppLimits = AppLimits(),  # noqa: B008 - frozen
        *,
        event_paths: Collection[str] = (),
        memory: MemoryBudget | None = None,
        loopback: bool = False,
    ) -> None:
        self._routes = [_Route.of(path, handler, takes_events=path in event_paths) for path, handler in routes.items()]
        self._fallback = fallback
        self._pools = pools
        self._max_body = max_body
        self._limits = limits
        self._admission = Admission(limits, max_body)
        self._memory = memory
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        route = self._route(scope)
        try:
            headers = Headers(scope=scope)
            require_own_origin(headers, loopback=self._loopback)
            if route is None:
                await self._fallback(scope, receive, _counting(scope, send))
                return
            reply = await self._answer(scope, headers, receive, route)
        except Exception as exc:
            if route is None and not isinstance(exc, OriginRefused):
                raise
            reply = error_reply(exc)
            path = route.path if route else "other"
            level = {500: logging.ERROR, 503: logging.WARNING}.get(reply.status, logging.INFO)
            _log.log(level, "request failed", exc_info=exc, extra={"status": reply.status, "route": path})
        metrics.request(_method(scope), route.path if route else "other", reply.status).inc()
        await _send(reply, send)

    def _route(self, scope: Scope) -> "_Route | None":
        return next((route for route in self._routes if route.pattern.fullmatch(scope["path"])), None)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, route: "_Route") -> Reply:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{route.path} takes POST requests only; /docs shows examples.")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._max_body:
            raise BodyTooLarge(f"The body has more than {self._max_body} bytes.")
        held = Body(self._admission)
        try:
            data = await self._body(receive, held)
            query, named = QueryParams(scope["query_string"]), route.names_in(scope["path"])
            proved = bool(scope.get(PROVED))
            version, model = named.get("version"), named.get("model")
            request = Request(headers, query, data, datetime.now(UTC), version, model, proved)
            is_event = route.takes_events and not held.is_large and b'"instances"' not in data[:_START]
            with self._admission.slot(is_event=is_event):
                return await self._work(route, request, self._pools.events if is_event else self._pools.images)
        finally:
            held.release()

    async def _body(self, receive: Receive, held: Body) -> bytes:
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_seconds) as held.timeout:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BodyTooSlow("The connection was closed before the body was complete.")
                    chunks.append(message.get("body", b""))
                    if held.size + len(chunks[-1]) > self._max_body:
                        raise BodyTooLarge(f"The body has more than {self._max_body} bytes.")
                    held.grow(len(chunks[-1]))
                    more = message.get("more_body", False)
                held.complete()
        except TimeoutError:
            seconds = f"{self._limits.body_seconds:.0f} s"
            reason = "came so slowly that others got its room" if held.evicted else f"took longer than {seconds}"
            raise BodyTooSlow(f"The body {reason}.") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _work(self, route: "_Route", request: Request, pool: ThreadPoolExecutor) -> Reply:
        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await asyncio.get_running_loop().run_in_executor(pool, self._handle, route, request)
        finally:
            metrics.IN_FLIGHT.dec()
            route.seconds.observe(time.perf_counter() - started)

    def _handle(self, route: "_Route", request: Request) -> Reply:
        if self._memory is None:
            return self._handle_in_memory(route, request)
        with self._memory.work():
            return self._handle_in_memory(route, request)

    def _handle_in_memory(self, route: "_Route", request: Request) -> Reply:
        if "content-encoding" in request.headers:
            self._take(min(self._max_body, _MOST_INFLATED * len(request.body)))
            request = replace(request, body=decompress(request.body, request.headers, self._max_body))
        if len(request.body) > MAX_EVENT_BYTES:
            self._take(2 * len(request.body))  # the parsed JSON, and the image that was base64 in it
        return route.handler(request)

    def _take(self, size: int) -> None:
        if self._memory is not None:
            self._memory.take(size)


@dataclass(frozen=True, slots=True)
class Pools:
    """Threads for events, and for images that requests bring with them."""

    events: ThreadPoolExecutor
    images: ThreadPoolExecutor


@dataclass(frozen=True, slots=True)
class _Route:
    """A path, which may have `{model}` and `{version}` in it; its handler and its metric."""

    path: str
    handler: Handler
    pattern: re.Pattern[str]
    seconds: Histogram
    takes_events: bool

    @classmethod
    def of(cls, path: str, handler: Handler, *, takes_events: bool) -> "_Route":
        pattern = re.sub(r"\\\{(model|version)\\\}", r"(?P<\1>[^/:]{1,200})", re.escape(path))
        return cls(path, handler, re.compile(pattern), metrics.SECONDS.labels(path), takes_events)

    def names_in(self, path: str) -> dict[str, str]:
        """The model and the version that a path names."""
        match = self.pattern.fullmatch(path)
        return match.groupdict() if match else {}


# The status of each error; the first that matches counts. Knative retries 408 and 5xx, other 4xx never.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (EventMalformed, 400),
    (RequestMalformed, 400),
    (ImageRefused, 400),
    (OriginRefused, 403),
    (ProofRefused, 403),
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
    closing = {"connection": "close"} if isinstance(exc, NoRoom) else {}
    return json_reply({"error": sentence} | reason, status, _HEADERS.get(status, {}) | closing)


_HEADERS = {
    405: {"allow": "POST"},
    408: {"connection": "close"},
    413: {"connection": "close"},
    415: {"accept-encoding": "gzip, deflate"},
    503: {"retry-after": "1"},
}


def _counting(scope: Scope, send: Send) -> Send:
    """Count the fallback's responses, under one route label: a client must not choose the labels."""
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
