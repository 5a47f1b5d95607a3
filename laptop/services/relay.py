"""Hands bytes on between two connections: for gates, whose clients may be slow, silent or many.

A client that does not take what it is sent is closed, and so is what it left unsent. When there are too many
connections, the one on which nothing has moved for longest makes way.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Generator

from lungline.connections import most_connections

CHUNK = 2**18
STALL_SECONDS = 30.0
"""A client has this long to take a chunk."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Pump = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Callable[[], None], float], Coroutine[None, None, None]]
"""Hands on what a reader gets to a writer until there is no more: calls when something moves, raises after a stall."""


def most_relayed() -> int:
    """How many connections a gate may hand on; each has a second one behind it."""
    return most_connections() // 2


class Crowd:
    """The connections of a port, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._moved: dict[asyncio.StreamWriter, float] = {}

    @contextlib.contextmanager
    def member(self, writer: asyncio.StreamWriter) -> Generator[Callable[[], None]]:
        """Count a connection, after the stillest has made way; yields what to call whenever something moves on it."""
        while len(self._moved) >= self._most:
            stillest = min(self._moved, key=self._moved.__getitem__)
            del self._moved[stillest]
            stillest.transport.abort()

        def move() -> None:
            if writer in self._moved:
                self._moved[writer] = time.monotonic()

        self._moved[writer] = time.monotonic()
        try:
            yield move
        finally:
            self._moved.pop(writer, None)


async def hand_on(
    client: Stream,
    server: Stream,
    move: Callable[[], None],
    stall: float = STALL_SECONDS,
    pumps: tuple[Pump, Pump] | None = None,
) -> None:
    """Hand on the bytes of both, until one of them ends or the other does not take them.

    `pumps` are those to the server and to the client, where they do more than that.
    """
    there, back = pumps or (_pump, _pump)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_close_after(there(client[0], server[1], move, stall), server[1]))
            group.create_task(_close_after(back(server[0], client[1], move, stall), client[1]))
    except* (OSError, TimeoutError):
        for _, writer in (client, server):
            writer.transport.abort()
    finally:
        end(client, stall)
        end(server, stall)


def end(stream: Stream, stall: float = STALL_SECONDS) -> None:
    """Close a connection; what is unsent has a while, where otherwise it would have for ever."""
    stream[1].close()
    with contextlib.suppress(AttributeError):  # asyncio's TLS transport has no buffer any more once it is closed
        if stream[1].transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(stall, stream[1].transport.abort)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float
) -> None:
    """Hand on bytes until there are no more."""
    while data := await reader.read(CHUNK):
        move()
        writer.write(data)
        async with asyncio.timeout(stall):
            await writer.drain()
        move()


async def _close_after(pump: Coroutine[None, None, None], writer: asyncio.StreamWriter) -> None:
    """Pump; then the other end gets no more either."""
    try:
        await pump
    finally:
        writer.close()
