"""A door in front of a server that lets everything through, or answers 503 to everybody while it is shut."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_UNAVAILABLE = b"<Error><Code>ServiceUnavailable</Code></Error>"
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/xml\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_UNAVAILABLE), _UNAVAILABLE)
)


class Door:
    """Listens on a port of its own; `target` tells, at each connection, the port behind it."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._shut = False
        self._through: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        serving = asyncio.start_server(self._come, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.refused = 0

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Refuse everybody; who is in the middle of something is cut off."""
        self._loop.call_soon_threadsafe(self._close_door)
        try:
            yield
        finally:
            self._shut = False

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _close_door(self) -> None:
        self._shut = True
        for writer in self._through:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._close_door()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await (self._refuse(reader, writer) if self._shut else self._pass(reader, writer))
        writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.refused += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, rest = head.partition(b"content-length:")
        await reader.readexactly(int(rest.split(b"\r\n")[0]) if found else 0)
        writer.write(_ANSWER)
        await writer.drain()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target())
        pair = {writer, inner_writer}
        self._through |= pair
        try:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            self._through -= pair
            inner_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until one side has no more; then the other side hears no more either."""
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort() if writer.transport.is_closing() else writer.close()


@contextmanager
def door(target: Callable[[], int]) -> Iterator[Door]:
    """A door until the context ends."""
    made = Door(target)
    try:
        yield made
    finally:
        made.close()
