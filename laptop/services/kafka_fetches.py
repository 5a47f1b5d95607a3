"""Fetches that wait for records: the gate holds them until somebody writes.

The embedded broker (tansu 0.6) looks for new records when a fetch comes, then when half of its time is over, and so on;
a record waits for the next look. It announces a record before its batch is stored, so that some looks read the batch
before it again. Every record passes through the gate, which therefore knows better: a fetch from the end of a partition
stays here until the broker has acknowledged a write, or its own time is over.
"""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from laptop.services.kafka_frames import (
    FETCH,
    PEEK,
    PRODUCE,
    Fetch,
    NotUnderstood,
    Write,
    end_of,
    fetch_of,
    first_offset_of,
    write_of,
)
from laptop.services.relay import CHUNK

LONGEST_HOLD_SECONDS = 30.0
# For a fetch that has waited here: the broker looks once, and goes to no store when there is nothing. Before an end is
# known, there may be a long list of batches to look through.
_LAST_LOOK_SECONDS, _FIRST_LOOK_SECONDS = 0.003, 0.25
# Requests of a client whose responses are awaited; librdkafka sends at most a million, ours a few.
_AWAITED = 1024

_HEAD = struct.Struct(">ihhi")
_Place = tuple[bytes, int]
"""A partition of a topic."""


class Ends:
    """Where partitions end, as far as known; shared by all connections."""

    def __init__(self) -> None:
        self._ends: dict[_Place, int] = {}
        self._moved = asyncio.Event()

    def written(self, place: _Place, end: int) -> None:
        """The broker has acknowledged a batch that ends there: wake the fetches that wait for it."""
        self._ends[place] = max(end, self._ends.get(place, 0))
        self._wake()

    def announced(self, place: _Place, end: int) -> None:
        """The broker says so; what was written here is known better, because it may announce what is not stored."""
        self._ends.setdefault(place, end)

    def forget(self) -> None:
        """Somebody has written somewhere."""
        self._ends.clear()
        self._wake()

    async def wait_for(self, place: _Place, offset: int, seconds: float) -> float:
        """Wait until there may be records from an offset on, at most this long; returns how long the broker may."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while offset >= self._ends.get(place, offset + 1):
                    await self._moved.wait()
        end = self._ends.get(place)
        if end is None:
            return min(seconds, _FIRST_LOOK_SECONDS)
        return seconds if offset < end else _LAST_LOOK_SECONDS

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A response that the gate reads, and what it answers; None when that was not understood."""

    number: int
    request: Fetch | Write | None


class Exchange:
    """The requests of one client and the broker's responses, which come in the same order."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._awaited: deque[_Awaited] = deque(maxlen=_AWAITED)

    async def requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float
    ) -> None:
        """Hand on the client's requests until there are no more; a fetch when there is something to find."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(_HEAD.size)
                length, key, version, number = _HEAD.unpack(head)
                left = _rest(length, _HEAD.size)
                move()
                begin = await reader.readexactly(min(left, PEEK)) if key in {PRODUCE, FETCH} else b""
                left -= len(begin)
                if key == PRODUCE:
                    self._await_write(version, number, begin)
                elif key == FETCH and not left:
                    begin = await self._when_worthwhile(version, number, begin)
                await _hand_on(head + begin, reader, writer, left, stall)
                move()

    async def responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float
    ) -> None:
        """Hand on the broker's responses until there are no more; note where partitions end."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(8)
                length, number = struct.unpack(">ii", head)
                left = _rest(length, len(head))
                move()
                begin = await reader.readexactly(min(left, PEEK))
                self._note(number, begin)
                await _hand_on(head + begin, reader, writer, left - len(begin), stall)
                move()

    def _await_write(self, version: int, number: int, body: bytes) -> None:
        try:
            self._awaited.append(_Awaited(number, write_of(version, body)))
        except NotUnderstood:
            self._awaited.append(_Awaited(number, None))

    async def _when_worthwhile(self, version: int, number: int, body: bytes) -> bytes:
        """A fetch for the broker, once there may be something for it; without time to wait there if there is not."""
        try:
            fetch = fetch_of(version, body)
        except NotUnderstood:
            return body
        place, wait = (fetch.topic, fetch.partition), min(fetch.wait, LONGEST_HOLD_SECONDS)
        wait = await self._ends.wait_for(place, fetch.offset, wait)
        self._awaited.append(_Awaited(number, fetch))
        return body[: fetch.place] + struct.pack(">i", round(wait * 1000)) + body[fetch.place + 4 :]

    def _note(self, number: int, body: bytes) -> None:
        """Learn from the response to a fetch or a write; those before it will have none."""
        if all(awaited.number != number for awaited in self._awaited):
            return
        while (awaited := self._awaited.popleft()).number != number:
            pass
        match awaited.request:
            case Write() as write:
                self._note_write(write, body)
            case Fetch() as fetch:
                with contextlib.suppress(NotUnderstood):
                    if (end := end_of(body)) is not None:
                        self._ends.announced((fetch.topic, fetch.partition), end)
            case None:
                self._ends.forget()

    def _note_write(self, write: Write, body: bytes) -> None:
        try:
            first = first_offset_of(body)
        except NotUnderstood:
            self._ends.forget()
            return
        if first is not None:
            self._ends.written((write.topic, write.partition), first + write.last + 1)


def _rest(length: int, read: int) -> int:
    """How much of a frame is left; `length` counts what follows it. Raises ConnectionError when that cannot be."""
    left = length + 4 - read
    if left < 0:
        raise ConnectionError
    return left


async def _hand_on(
    begin: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int, stall: float
) -> None:
    """Hand on the begin of a frame and what is left of it. Raises IncompleteReadError when it ends early."""
    writer.write(begin)
    while True:
        async with asyncio.timeout(stall):
            await writer.drain()
        if not left:
            return
        data = await reader.read(min(left, CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        writer.write(data)
        left -= len(data)
