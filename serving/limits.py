"""How much the predictor takes on: bytes of a body, seconds for a body, requests at once."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lungline.errors import Unavailable

BODY_SECONDS = 30.0
PLACES = 128
BODIES = 4  # of the largest size, held in memory at once


class Busy(Unavailable):
    """Too many requests are under way."""


class Gate:
    """Bounds the requests under way and the memory of their bodies: what waits in a queue waits in memory.

    Only ever touched by the event loop's thread.
    """

    def __init__(self, places: int, size: int) -> None:
        self._places = places
        self._bytes = size

    @contextmanager
    def hold(self, size: int) -> Generator[None]:
        """Take a place and `size` bytes while the context lasts. Raises Busy."""
        if self._places < 1 or self._bytes < size:
            raise Busy("Too many requests are under way; try again.")
        self._places -= 1
        self._bytes -= size
        try:
            yield
        finally:
            self._places += 1
            self._bytes += size


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class BodyLimit:
    """ASGI middleware: a body of more than `most` bytes is 413, one that comes too slowly 408."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._most)
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            body.check_declared(scope)
            await self._app(scope, body.receive, watched)
        except _Refused as exc:
            if not answered:
                answer = JSONResponse({"error": str(exc)}, exc.status, {"connection": "close"})
                await answer(scope, receive, send)


class _Body:
    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._seen = 0
        self._complete = False
        self._deadline = time.monotonic() + BODY_SECONDS

    def check_declared(self, scope: Scope) -> None:
        if declared_size(scope, 0) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._complete:  # only the end of the connection is still to come; waiting for that has no limit
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise _Refused(408, f"The body took longer than {BODY_SECONDS:.0f} s.") from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise self._too_large()
        self._complete = not message.get("more_body")
        return message

    def _too_large(self) -> _Refused:
        return _Refused(413, f"The body has more than {self._most} bytes.")


def declared_size(scope: Scope, otherwise: int) -> int:
    """Bytes that the request says its body has; `otherwise` when it does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return otherwise
