"""The way in: an ASGI app that serves the judging routes itself and hands everything else on.

FastAPI's dozen layers cost as much as judging an image; the judging routes need none of them. What they need is here:
limits on bytes, seconds and requests at once, a thread for the work, and errors as answers.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from prometheus_client import Histogram
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import EventMalformed, LunglineError, Unavailable
from serving import metrics
from serving.http import BodyTooLarge, BodyTooSlow, Busy, Handler, Reply, Request, RequestMalformed, json_reply

BODY_SECONDS = 30.0
# Longer than the slowest upload that still ends well (its store calls at their limits).
ANSWER_SECONDS = 100.0
PLACES = 128
BODIES = 4  # of the largest size, held in memory at once


_log = logging.getLogger(__name__)


class InferenceApp:
    """Serves `routes` (POST, by path) on threads; everything else goes to `otherwise`.

    At most PLACES requests and BODIES bodies of `max_body` bytes are under way: what waits in a queue waits in memory.
    """

    def __init__(
        self, routes: Mapping[str, Handler], otherwise: ASGIApp, pool: ThreadPoolExecutor, max_body: int
    ) -> None:
        self._routes = {path: (handler, metrics.SECONDS.labels(path)) for path, handler in routes.items()}
        self._otherwise = otherwise
        self._pool = pool
        self._max_body = max_body
        # Only the event loop's thread touches these two.
        self._places = PLACES
        self._room = BODIES * max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._otherwise(scope, receive, _counting(scope, send))
            return
        handler, seconds = found
        try:
            reply = await self._admit(scope, receive, handler, seconds)
        except Exception as exc:  # noqa: BLE001 - the last one who can answer
            reply = _failure(exc, scope["path"])
        metrics.request("POST", scope["path"], reply.status).inc()
        await _send(reply, send)

    async def _admit(self, scope: Scope, receive: Receive, handler: Handler, seconds: Histogram) -> Reply:
        headers = Headers(scope=scope)
        size = _declared(headers, self._max_body)
        if size > self._max_body:
            raise BodyTooLarge(f"The body has more than {self._max_body} bytes.")
        if self._places < 1 or self._room < size:
            raise Busy("Too many requests are under way; try again.")
        self._places -= 1
        self._room -= size
        try:
            body = await self._body(receive)
            request = Request(headers, QueryParams(scope["query_string"]), body, datetime.now(UTC))
            return await self._work(handler, request, seconds)
        finally:
            self._places += 1
            self._room += size

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
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
            raise BodyTooSlow(f"The body took longer than {BODY_SECONDS:.0f} s.") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _work(self, handler: Handler, request: Request, seconds: Histogram) -> Reply:
        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._pool, handler, request)
        finally:
            metrics.IN_FLIGHT.dec()
            seconds.observe(time.perf_counter() - started)


# What a failure is answered with; the first that fits counts. Knative tries 408 and 5xx again, other 4xx never.
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


def _declared(headers: Headers, otherwise: int) -> int:
    """Bytes that the request says its body has; `otherwise` when it does not say."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else otherwise


def _counting(scope: Scope, send: Send) -> Send:
    """Count what others answer. Whoever asks for what is not there chooses no label."""
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
