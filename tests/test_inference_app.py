"""Limits of the predictor: bytes and seconds of a body, requests in flight, seconds of an answer."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Message

from serving.admission import AppLimits
from serving.app import InferenceApp, Pools
from serving.http import Reply, Request

MAX_BODY = 1000
LIMITS = AppLimits()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def fallback(*_: Any) -> None:
    raise AssertionError


def build(
    pool: ThreadPoolExecutor, released: threading.Event | None = None, limits: AppLimits = LIMITS
) -> InferenceApp:
    """An app whose handler answers with the length of the body, once `released` is set."""

    def handle(request: Request) -> Reply:
        if released:
            released.wait(30)
        return Reply(200, str(len(request.body)).encode())

    return InferenceApp({"/x": handle, "/e": handle}, fallback, Pools(pool, pool), MAX_BODY, limits, event_paths=["/e"])


async def post(
    app: InferenceApp, *chunks: bytes, length: int | None = None, last: bool = True, path: str = "/x"
) -> tuple[int, Any]:
    """Status and JSON of the response to a POST of these chunks; without `last` the body never ends."""
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
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)


def test_a_body_in_chunks_is_joined(pool: ThreadPoolExecutor) -> None:
    assert asyncio.run(post(build(pool), b"a" * 400, b"b" * 600)) == (200, 1000)


def test_a_body_that_is_too_large_is_413(pool: ThreadPoolExecutor) -> None:
    """Whether its length is declared, undeclared or declared wrongly."""
    app = build(pool)
    for chunks, length in (((b"",), 1001), ((b"a" * 600, b"b" * 401), None), ((b"a" * 1001,), 10)):
        status, answer = asyncio.run(post(app, *chunks, length=length))
        assert (status, answer["error"]) == (413, "The body has more than 1000 bytes.")
    assert asyncio.run(post(app, b"abc")) == (200, 3)


def test_a_body_that_never_ends_is_408(pool: ThreadPoolExecutor) -> None:
    app = build(pool, limits=AppLimits(body_seconds=0.05))
    status, answer = asyncio.run(post(app, b"abc", last=False))
    assert status == 408
    assert answer["error"].startswith("The body took longer than")


def test_an_answer_that_takes_too_long_is_503(pool: ThreadPoolExecutor) -> None:
    released = threading.Event()
    try:
        status, answer = asyncio.run(post(build(pool, released, AppLimits(answer_seconds=0.05)), b"abc"))
    finally:
        released.set()
    assert (status, answer["error"]) == (503, "The request took too long; try again.")


@pytest.mark.parametrize(("chunks", "limit"), [(b"abc", LIMITS.images), (b"a" * 1000, LIMITS.small_bodies)])
def test_requests_beyond_the_limits_are_503(pool: ThreadPoolExecutor, chunks: bytes, limit: int) -> None:
    """Those in flight are answered, and their places are free afterwards."""
    released = threading.Event()

    async def storm() -> tuple[list[tuple[int, Any]], tuple[int, Any], tuple[int, Any]]:
        app = build(pool, released)
        accepted = [asyncio.create_task(post(app, chunks, length=len(chunks))) for _ in range(limit)]
        await asyncio.sleep(0)  # each is in flight now
        refused = await post(app, chunks, length=len(chunks))
        released.set()
        answers = list(await asyncio.gather(*accepted))
        return answers, refused, await post(app, chunks, length=len(chunks))

    answers, refused, after = asyncio.run(storm())
    assert answers == [(200, len(chunks))] * limit
    assert (refused[0], refused[1]["error"]) == (503, "Too many requests are in flight; try again.")
    assert after == (200, len(chunks))


def test_slow_bodies_hold_only_what_has_come(pool: ThreadPoolExecutor) -> None:
    """Any number of connections that declare the largest body and send a byte shut out nobody."""

    async def storm() -> tuple[int, Any]:
        app = build(pool)
        slow = [asyncio.create_task(post(app, b"a", length=MAX_BODY, last=False)) for _ in range(500)]
        await asyncio.sleep(0.01)
        answer = await post(app, b"b" * MAX_BODY, length=MAX_BODY)
        await cancel(slow)
        return answer

    assert asyncio.run(storm()) == (200, MAX_BODY)


def test_a_slow_body_makes_way_for_another(pool: ThreadPoolExecutor) -> None:
    """When all room is taken by bodies that do not come to their end, the oldest loses its place."""

    async def storm() -> tuple[tuple[int, Any], tuple[int, Any], tuple[int, Any]]:
        app = build(pool, limits=AppLimits(small_bodies=2, small_patience=0.05))
        slow = [asyncio.create_task(post(app, b"a" * 900, last=False)) for _ in range(2)]
        await asyncio.sleep(0.01)
        refused = await post(app, b"b" * 900)
        await asyncio.sleep(0.1)
        accepted = await post(app, b"b" * 900)
        evicted = await asyncio.wait_for(slow[0], 5)
        await cancel(slow)
        return refused, accepted, evicted

    refused, accepted, evicted = asyncio.run(storm())
    assert refused[0] == 503
    assert accepted == (200, 900)
    assert evicted == (408, {"error": "The body came so slowly that others got its room."})


def test_images_never_take_the_room_of_events() -> None:
    released = threading.Event()

    async def storm() -> tuple[tuple[int, Any], tuple[int, Any]]:
        with ThreadPoolExecutor(2) as images, ThreadPoolExecutor(1) as events:

            def handle(request: Request) -> Reply:
                if request.body.startswith((b"image", b'{"instances"')):
                    released.wait(30)
                return Reply(200, b"1")

            app = InferenceApp(
                {"/x": handle, "/e": handle}, fallback, Pools(events, images), MAX_BODY, event_paths=["/e"]
            )
            slow = [asyncio.create_task(post(app, b"image")) for _ in range(LIMITS.images // 2)]
            slow += [asyncio.create_task(post(app, b'{"instances"', path="/e")) for _ in range(LIMITS.images // 2)]
            await asyncio.sleep(0.05)
            refused, answer = await post(app, b"image"), await asyncio.wait_for(post(app, b"event", path="/e"), 5)
            released.set()
            await asyncio.gather(*slow)
            return refused, answer

    refused, answer = asyncio.run(storm())
    assert refused[0] == 503
    assert answer == (200, 1)


async def cancel(tasks: list["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
