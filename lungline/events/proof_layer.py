"""The ASGI layer of a receiver of events: who sends proves himself before anything is read, and is answered with proof.

Requests without a proof pass, unless their head says that they are events; their answers have no proof either.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from lungline.events.cloudevents import MAX_EVENT_BYTES
from lungline.events.proof import HEADER, Pair, ProofRefused, Receiver, Request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROVED = "lungline.proved"
"""The key of a scope that says that the sender has proved itself."""
NEEDED = (
    "Events must prove their sender, which a bearer token does not: this receiver belongs to a stack with a key for"
    " events, and only its trigger sends them."
)
BODY_SECONDS = 30.0

_log = logging.getLogger(__name__)


class ProvedEvents:
    """Lets requests through to `app`; `is_event` tells from the head of a request whether it must be proved."""

    def __init__(self, app: App, receiver: Receiver, is_event: Callable[[Scope], bool]) -> None:
        self._app = app
        self._receiver = receiver
        self._is_event = is_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        proof = _proof_in(scope)
        if proof is None:
            refusal = NEEDED if scope["type"] == "http" and self._is_event(scope) else None
            await (_refuse(send, refusal) if refusal else self._app(scope, receive, send))
            return
        try:
            request = self._receiver.accept(scope["method"], _target(scope), scope["headers"], proof)
        except ProofRefused as exc:
            await _refuse(send, str(exc))
            return
        await self._handle(request, scope, receive, _Answer(self._receiver, request, send))

    async def _handle(self, request: Request, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        if not request.has_room:
            await answer.say(503, "Too many events have come within a minute; try again.", (b"retry-after", b"1"))
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            await answer.say(408, f"The event did not come within {BODY_SECONDS:.0f} s.", _CLOSE)
            return
        if body is None:  # the connection was closed
            return
        if len(body) > MAX_EVENT_BYTES:
            await answer.say(413, f"The event has more than {MAX_EVENT_BYTES} bytes.", _CLOSE)
        elif not hmac.compare_digest(hashlib.sha256(body).hexdigest(), request.digest):
            await _refuse(answer.unproved, "The body was changed on its way.")
        else:
            scope[PROVED] = True
            await self._pass(scope, _replayed(body, receive), answer)

    async def _pass(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            if not answer.is_complete:
                await answer.say(500, "The receiver failed; its log says why.")
            raise


class _Answer:
    """Collects an answer, and sends it with its proof."""

    def __init__(self, receiver: Receiver, request: Request, send: Send) -> None:
        self._receiver = receiver
        self._request = request
        self.unproved = send
        self.is_complete = False
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        """Take a part of it."""
        if message["type"] == "http.response.start":
            self._start, self._body = message, b""
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._complete()

    async def say(self, status: int, sentence: str, *more: Pair) -> None:
        """Answer with a sentence."""
        self._start, self._body = _start(status, sentence, *more)
        await self._complete()

    async def _complete(self) -> None:
        self.is_complete = True
        headers: list[Pair] = [*self._start["headers"]]
        proof = self._receiver.prove(self._request, self._start["status"], headers, self._body)
        await self.unproved({**self._start, "headers": [*headers, (HEADER.encode(), proof.encode())]})
        await self.unproved({"type": "http.response.body", "body": self._body})


_CLOSE = (b"connection", b"close")


def _start(status: int, sentence: str, *more: Pair) -> tuple[Message, bytes]:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    return {"type": "http.response.start", "status": status, "headers": headers}, body


async def _refuse(send: Send, sentence: str) -> None:
    """Without reading what follows: the connection is closed."""
    _log.info("An event is refused: %s", sentence)
    start, body = _start(403, sentence, _CLOSE)
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes | None:
    """The body, at most one chunk longer than any event; None when the connection was closed."""
    body, more = b"", True
    while more and len(body) <= MAX_EVENT_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application, after the body has been read."""
    pending = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": pending.pop(), "more_body": False} if pending else await receive()

    return replayed


def _proof_in(scope: Scope) -> str | None:
    if scope["type"] != "http":
        return None
    name = HEADER.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _target(scope: Scope) -> str:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (path + b"?" + query if query else path).decode("latin-1")
