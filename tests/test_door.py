"""What the predictor lets in: bodies by bytes and seconds, requests by number, answers by seconds."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Message

from serving import app
from serving.app import InferenceApp
from serving.http import Reply, Request

MAX_BODY = 1000


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def otherwise(*_: Any) -> None:
    raise AssertionError


def made(pool: ThreadPoolExecutor, gate: threading.Event | None = None) -> InferenceApp:
    """A door to a handler that answers with the length of what it got, once the gate is open."""

    def handle(request: Request) -> Reply:
        if gate:
            gate.wait(30)
        return Reply(200, str(len(request.body)).encode())

    return InferenceApp({"/x": handle}, otherwise, pool, MAX_BODY)


async def ask(entrance: InferenceApp, *chunks: bytes, length: int | None = None, last: bool = True) -> tuple[int, Any]:
    """Status and answer to a POST of these chunks; without `last` the body never ends."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks or (b"",)]
    if last:
        messages[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers, "query_string": b""}
    await entrance(scope, receive, send)
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)


def test_a_body_is_let_in_whole(pool: ThreadPoolExecutor) -> None:
    assert asyncio.run(ask(made(pool), b"a" * 400, b"b" * 600)) == (200, 1000)


def test_a_body_that_is_too_large_is_413_whether_it_says_so_or_not(pool: ThreadPoolExecutor) -> None:
    entrance = made(pool)
    for chunks, length in (((b"",), 1001), ((b"a" * 600, b"b" * 401), None), ((b"a" * 1001,), 10)):
        status, answer = asyncio.run(ask(entrance, *chunks, length=length))
        assert (status, answer["error"]) == (413, "The body has more than 1000 bytes.")
    assert asyncio.run(ask(entrance, b"abc")) == (200, 3)


def test_a_body_that_never_ends_is_408(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    status, answer = asyncio.run(ask(made(pool), b"abc", last=False))
    assert status == 408
    assert answer["error"].startswith("The body took longer than")


def test_an_answer_that_takes_too_long_is_503(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ANSWER_SECONDS", 0.05)
    gate = threading.Event()
    try:
        status, answer = asyncio.run(ask(made(pool, gate), b"abc"))
    finally:
        gate.set()
    assert (status, answer["error"]) == (503, "The request took too long; try again.")


@pytest.mark.parametrize(("chunks", "limit"), [(b"abc", app.PLACES), (b"a" * 1000, app.BODIES)])
def test_what_would_wait_in_memory_is_503_and_takes_no_place_from_those_inside(
    pool: ThreadPoolExecutor, chunks: bytes, limit: int
) -> None:
    gate = threading.Event()

    async def storm() -> tuple[list[tuple[int, Any]], tuple[int, Any], tuple[int, Any]]:
        entrance = made(pool, gate)
        inside = [asyncio.create_task(ask(entrance, chunks, length=len(chunks))) for _ in range(limit)]
        await asyncio.sleep(0)  # each is in the room now
        refused = await ask(entrance, chunks, length=len(chunks))
        gate.set()
        answers = list(await asyncio.gather(*inside))
        return answers, refused, await ask(entrance, chunks, length=len(chunks))

    answers, refused, after = asyncio.run(storm())
    assert answers == [(200, len(chunks))] * limit
    assert (refused[0], refused[1]["error"]) == (503, "Too many requests are under way; try again.")
    assert after == (200, len(chunks))
