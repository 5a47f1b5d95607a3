"""An ASGI app that serves the inference routes itself and passes every other request to KServe's app.

FastAPI's dozen layers cost as much as predicting an image, and the inference routes need none of them. They need limits
on body size, on seconds and on requests in flight, a thread for the work, and errors as JSON.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Histogram
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import EventMalformed, LunglineError, Unavailable
from serving import metrics
from serving.http import BodyTooLarge, BodyTooSlow, Busy, Handler, Reply, Request, RequestMalformed, json_reply

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
        self._routes = {path: (handler, metrics.SECONDS.labels(path)) for path, handler in routes.items()}
        self._fallback = fallback
        self._pool = pool
        self._max_body = max_body
        self._limits = limits
        # Only the event loop's thread touches these two.
        self._free_requests = limits.requests
        self._free_bytes = limits.bodies * max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._fallback(scope, receive, _counting(scope, send))
            return
        handler, seconds = route
        try:
            reply = await self._admit(scope, receive, handler, seconds)
        except Exception as exc:  # noqa: BLE001 - nothing above could answer the request
            reply = _failure(exc, scope["path"])
        metrics.request("POST", scope["path"], reply.status).inc()
        await _send(reply, send)

    async def _admit(self, scope: Scope, receive: Receive, handler: Handler, seconds: Histogram) -> Reply:
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
            request = Request(headers, QueryParams(scope["query_string"]), body, datetime.now(UTC))
            return await self._work(handler, request, seconds)
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

    async def _work(self, handler: Handler, request: Request, seconds: Histogram) -> Reply:
        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._pool, handler, request)
        finally:
            metrics.IN_FLIGHT.dec()
            seconds.observe(time.perf_counter() - started)


# The status of each error; the first that matches counts. Knative retries 408 and 5xx, other 4xx never.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (EventMalformed, 400),
    (RequestMalformed, 400),
    (BodyTooSlow, 408),
    (BodyTooLarge, 413),
    (Unavailable, 503),
    (TimeoutError, 503),
    (Exception, 500),
)


def _failure(exc: Exception, path: str) -> Reply:
    status = next(status for kind, status in _STATUS if isinstance(exc, kind))
    level = {500: logging.ERROR, 503: logging.WARNING}.get(status, logging.INFO)
    _log.log(level, "request failed", exc_info=exc, extra={"status": status, "route": path})
    if isinstance(exc, LunglineError):
        sentence = str(exc)
    else:
        sentence = (
            "The request took too long; try again." if status == 503 else "The predictor failed; its log says why."
        )
    headers = {"retry-after": "1"} if status == 503 else {"connection": "close"} if status in {408, 413} else {}
    return json_reply({"error": sentence}, status, headers)


def _content_length(headers: Headers, default: int) -> int:
    """Bytes of the body as the request declares them; `default` when it does not."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else default


def _counting(scope: Scope, send: Send) -> Send:
    """Count the fallback's responses, under one route label: a client must not choose the labels."""
    if scope["type"] != "http":
        return send
    method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST"} else "other"

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            metrics.request(method, "other", message["status"]).inc()
        await send(message)

    return counted


async def _send(reply: Reply, send: Send) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in (reply.headers or {}).items()]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
