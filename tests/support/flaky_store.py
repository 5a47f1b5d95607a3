"""A TCP proxy in front of a server: it forwards everything, or answers 503 to every connection while it refuses."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_UNAVAILABLE = b"<Error><Code>ServiceUnavailable</Code></Error>"
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/xml\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_UNAVAILABLE), _UNAVAILABLE)
)


class FlakyProxy:
    """Listens on a port of its own; `target` returns the port to forward to, for each connection.

    `watch` sees what clients send before the server does.
    """

    def __init__(self, target: Callable[[], int], watch: Callable[[bytes], object] = bytes) -> None:
        self._target = target
        self._watch = watch
        self._refusing = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        serving = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.refused = 0

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse every connection while the context lasts; open connections are cut off."""
        self._loop.call_soon_threadsafe(self._cut_off)
        try:
            yield
        finally:
            self._refusing = False

    def close(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _cut_off(self) -> None:
        self._refusing = True
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._cut_off()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await (self._refuse(reader, writer) if self._refusing else self._forward(reader, writer))
        writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.refused += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, declared, rest = head.partition(b"content-length:")
        await reader.readexactly(int(rest.split(b"\r\n")[0]) if declared else 0)
        writer.write(_ANSWER)
        await writer.drain()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target())
        pair = {writer, inner_writer}
        self._open |= pair
        try:
            await asyncio.gather(_pump(reader, inner_writer, self._watch), _pump(inner_reader, writer))
        finally:
            self._open -= pair
            inner_writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Callable[[bytes], object] = bytes
) -> None:
    """Copy bytes until one side ends; then end the other."""
    try:
        while data := await reader.read(2**16):
            watch(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort() if writer.transport.is_closing() else writer.close()


@contextmanager
def flaky_proxy(target: Callable[[], int], watch: Callable[[bytes], object] = bytes) -> Iterator[FlakyProxy]:
    """A proxy until the context ends."""
    proxy = FlakyProxy(target, watch)
    try:
        yield proxy
    finally:
        proxy.close()
