"""What the gates in front of store and broker do with clients that are slow, silent or many."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from laptop.services.relay import CHUNK, Crowd, Stream, hand_on

pytestmark = pytest.mark.attack

STALL = 1.0
LARGE = 64 * 2**20
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Gate:
    """A gate in front of a server that sends much to whoever asks, and the connections of both."""

    def __init__(self, most: int) -> None:
        self.clients: list[Stream] = []
        self.servers: list[asyncio.StreamWriter] = []
        self.ports: list[int] = []
        self._crowd = Crowd(most)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.servers.append(writer)
        while asked := await reader.read(5):
            writer.write(asked if asked != b"large" else bytes(LARGE))

    async def let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append((reader, writer))
        with self._crowd.member(writer) as move:
            inner = await asyncio.open_connection("127.0.0.1", self.ports[0], limit=CHUNK)
            await hand_on((reader, writer), inner, move, STALL)

    @property
    def open(self) -> int:
        return sum(not writer.transport.is_closing() for _, writer in self.clients)


@asynccontextmanager
async def gate(most: int) -> AsyncIterator[Gate]:
    made = Gate(most)
    async with await _start(made.answer, made) as inner, await _start(made.let_in, made) as outer:
        yield made
        outer.close()
        inner.close()
        for writer in (*(writer for _, writer in made.clients), *made.servers):
            writer.transport.abort()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)


async def _start(serve: Serve, made: Gate) -> asyncio.Server:
    server = await asyncio.start_server(serve, "127.0.0.1", limit=CHUNK, backlog=512)
    made.ports.append(server.sockets[0].getsockname()[1])
    return server


async def client(made: Gate, ask: bytes) -> socket.socket:
    """A client that asks, and reads nothing by itself."""
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", made.ports[1]))
    await asyncio.get_running_loop().sock_sendall(connection, ask)
    return connection


async def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


def test_who_takes_nothing_is_closed_on_both_sides() -> None:
    async def attempt() -> None:
        async with gate(10) as made:
            with await client(made, b"large"):
                await wait_until(lambda: len(made.servers) == 1)
                await wait_until(lambda: made.open == 0 and made.servers[0].transport.is_closing())

    asyncio.run(attempt())


def test_who_says_nothing_stays_while_there_is_room() -> None:
    async def attempt() -> None:
        async with gate(10) as made:
            with await client(made, b"small") as quiet:
                loop = asyncio.get_running_loop()
                assert await loop.sock_recv(quiet, 10) == b"small"
                await asyncio.sleep(STALL + 0.5)
                await loop.sock_sendall(quiet, b"again")
                assert await loop.sock_recv(quiet, 10) == b"again"

    asyncio.run(attempt())


def test_the_stillest_of_many_make_way() -> None:
    async def attempt() -> None:
        loop = asyncio.get_running_loop()
        async with gate(20) as made:
            busy = await client(made, b"small")
            others = list[socket.socket]()
            for _ in range(100):
                others.append(await client(made, b""))
                await loop.sock_sendall(busy, b"again")
                await asyncio.sleep(0.01)
            with await client(made, b"small") as newest:
                assert await loop.sock_recv(newest, 10) == b"small"
                assert made.open <= 20
                assert len(await loop.sock_recv(busy, 1000)) > 50
            for each in (busy, *others):
                each.close()

    asyncio.run(attempt())


def test_a_slow_client_gets_everything() -> None:
    async def attempt() -> None:
        async with gate(10) as made:
            with await client(made, b"large") as slow:
                taken = 0
                while taken < LARGE:
                    taken += len(data := await asyncio.get_running_loop().sock_recv(slow, 2**20))
                    assert data
                    await asyncio.sleep(len(data) / LARGE * 2.5 * STALL)

    asyncio.run(attempt())
