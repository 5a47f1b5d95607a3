"""Bounds what the connections of a web server may hold: their number, and how long and large a request's head may be.

Slow connections make way for new ones, so that any number of them shuts out nobody. For uvicorn, whose protocols have
no such limits; only their attributes are known here.
"""

import asyncio
import resource
from contextlib import suppress
from typing import Any

HEAD_SECONDS, HEAD_BYTES = 10.0, 64 * 1024
BACKLOG = 128
"""Connections that asyncio accepts before any of them is handled, so that descriptors suffice for those as well."""
_MOST_CONNECTIONS, _MOST_DESCRIPTORS = 512, 65_536
_SWEEP_SECONDS = 1.0
# A request whose body came is in work for a while; one whose body does not come by then may have to make way.
_BODY_PATIENCE = 1.0


def most_connections() -> int:
    """How many connections a server may have; raises the limit on descriptors, and leaves half to other uses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return min(_MOST_CONNECTIONS, soft // 2) if soft != resource.RLIM_INFINITY else _MOST_CONNECTIONS


class _Guard:
    """The connections of one server, the oldest first."""

    def __init__(self, most: int, seconds: float, size: int) -> None:
        self._most = most
        self._seconds = seconds
        self.size = size
        self._connections: dict[_Limited, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def add(self, connection: "_Limited") -> None:
        if len(self._connections) >= self._most:
            self._make_room()
        self._connections[connection] = None
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def remove(self, connection: "_Limited") -> None:
        self._connections.pop(connection, None)

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its request, else for the rest of its body."""
        now = asyncio.get_running_loop().time()
        waiting = [each for each in self._connections if not each.is_in_work]
        incomplete = [each for each in self._connections if each.is_in_work and each.lacks_body(now - _BODY_PATIENCE)]
        for each in (waiting or incomplete)[:1]:
            each.close_now()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for each in list(self._connections):
            if not each.is_in_work and loop.time() - each.since > self._seconds:
                each.close_now()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._connections else None


class _Limited(asyncio.Protocol):
    """Mixed into a protocol of uvicorn: `cycle` is its request and response, `transport` the connection."""

    guard: _Guard
    cycle: Any
    transport: Any
    since = 0.0
    head = 0

    @property
    def is_in_work(self) -> bool:
        """Whether the head of a request is complete, and its response is not."""
        return self.cycle is not None and not self.cycle.response_complete

    def lacks_body(self, before: float) -> bool:
        """Whether the body of a request is incomplete that began `before`."""
        return bool(self.cycle.more_body) and self.since < before

    def close_now(self) -> None:
        """Close without a word: a slow client would not read it."""
        self.guard.remove(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self.since = asyncio.get_running_loop().time()
        super().connection_made(transport)
        self.guard.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self.guard.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head."""
        if not self.is_in_work:
            if self.head == 0:
                self.since = asyncio.get_running_loop().time()
            self.head += len(data)
        super().data_received(data)
        if self.is_in_work:
            self.head = 0
        elif self.head > self.guard.size and not self.transport.is_closing():
            self.close_now()


def guarded(protocol: type[Any], most: int, *, seconds: float = HEAD_SECONDS, size: int = HEAD_BYTES) -> type[Any]:
    """The protocol with at most `most` connections, and limits on the head of a request in seconds and bytes."""
    return type("Guarded", (_Limited, protocol), {"guard": _Guard(most, seconds, size)})
