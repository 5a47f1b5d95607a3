"""Bounds what the connections of a web server may hold: their number, a request's head, and a response nobody reads.

Slow connections make way for new ones, so that any number of them shuts out nobody. For uvicorn, whose protocols have
no such limits; only their attributes are known here.
"""

import asyncio
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lungline.memory import memory_limit

HEAD_SECONDS, HEAD_BYTES = 10.0, 64 * 1024
SEND_SECONDS, SEND_BYTES = 30.0, 32 * 1024
"""A client that takes fewer bytes of its response in this time is too slow."""
BACKLOG = 128
"""Connections that asyncio accepts before any of them is handled, so that descriptors suffice for those as well."""
_MOST_CONNECTIONS, _MOST_DESCRIPTORS = 512, 65_536
_SWEEP_SECONDS = 1.0
# Of what the system holds of a response; it would let it grow to megabytes, which a pod's limit counts.
_SYSTEM_BUFFER = 256 * 1024
# All unsent responses together; a single one may be larger.
_UNSENT_SHARE = 8
# Requests that a client sends before it has its response.
_MOST_PIPELINED = 32
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


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the connections of a server: the head of a request in seconds and bytes, and the sending of responses."""

    head_seconds: float = HEAD_SECONDS
    head_bytes: int = HEAD_BYTES
    send_seconds: float = SEND_SECONDS
    send_bytes: int = SEND_BYTES
    unsent_bytes: int | None = None
    """Of all connections together; by default a share of the memory that the process may use."""


class _Guard:
    """The connections of one server, the oldest first."""

    def __init__(self, most: int, bounds: Bounds) -> None:
        self._most = most
        self.bounds = bounds
        self._most_unsent = bounds.unsent_bytes or memory_limit() // _UNSENT_SHARE
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

    def bound_unsent(self) -> None:
        """Close the connections that have taken nothing for longest, until the others hold what they may."""
        now = asyncio.get_running_loop().time()
        sending = [each for each in self._connections if each.sending.look(now)]
        sending.sort(key=lambda each: each.sending.progressed)
        total = sum(each.sending.unsent for each in sending)
        for each in sending[:-1]:
            if total <= self._most_unsent:
                return
            total -= each.sending.unsent
            each.close_now()

    def _make_room(self) -> None:
        """Close those that have waited longest: for a request, for a client that does not read, or for a body."""
        now = asyncio.get_running_loop().time()
        waiting = [each for each in self._connections if not each.is_in_work and not each.sending.look(now)]
        unread = [each for each in self._connections if each.sending.stands(now - _BODY_PATIENCE)]
        unread.sort(key=lambda each: each.sending.progressed)
        incomplete = [each for each in self._connections if each.is_in_work and each.lacks_body(now - _BODY_PATIENCE)]
        too_many = max(0, len(self._connections) - self._most + 1)
        for each in (*waiting, *unread, *incomplete)[:too_many]:
            each.close_now()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for each in list(self._connections):
            if each.sending.look(now):
                if each.sending.is_too_slow(now, self.bounds):
                    each.close_now()
            elif not each.is_in_work and now - max(each.since, each.sending.ended) > self.bounds.head_seconds:
                each.close_now()
        if len(self._connections) > self._most:  # they came faster than any could be seen to wait
            self._make_room()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._connections else None


class _Sending:
    """What a client has taken of what was written to it: a transport that counts, and passes on everything else."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._written = self._taken = self._window_taken = 0
        self._window = 0.0
        self.unsent = 0
        """Bytes in this process that the client has not taken."""
        self.progressed = 0.0
        """When the client took something last, or was first seen to be behind."""
        self.ended = 0.0
        """When a client that was behind had taken everything."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Count and write."""
        self._written += len(data)
        self._transport.write(data)

    def look(self, now: float) -> bool:
        """Whether the client is behind; notes what it has taken since the last look."""
        was_behind, self.unsent = self.unsent > 0, self._transport.get_write_buffer_size()
        taken = self._written - self.unsent
        if not self.unsent:
            self.ended = now if was_behind else self.ended
        elif not was_behind:
            self.progressed = self._window = now
            self._window_taken = taken
        elif taken > self._taken:
            self.progressed = now
        self._taken = taken
        return self.unsent > 0

    def stands(self, before: float) -> bool:
        """Whether the client is behind, and has taken nothing since `before`."""
        return self.unsent > 0 and self.progressed < before

    def is_too_slow(self, now: float, bounds: Bounds) -> bool:
        """Whether a client that is behind took too little in the time that has just ended."""
        if now - self._window < bounds.send_seconds:
            return False
        taken, self._window, self._window_taken = self._taken - self._window_taken, now, self._taken
        return taken < bounds.send_bytes


class _Limited(asyncio.Protocol):
    """Mixed into a protocol of uvicorn: `cycle` is its request and response, `transport` the connection."""

    guard: _Guard
    cycle: Any
    transport: Any
    sending: _Sending
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
        self.sending = _Sending(transport)
        if connection := transport.get_extra_info("socket"):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SYSTEM_BUFFER)
        super().connection_made(self.sending)  # pyright: ignore[reportArgumentType] - has all that the transport has
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
        elif self.head > self.guard.bounds.head_bytes and not self.transport.is_closing():
            self.close_now()
        if len(getattr(self, "pipeline", ())) > _MOST_PIPELINED:
            self.close_now()

    def pause_writing(self) -> None:
        """Called when the client is behind with its response."""
        super().pause_writing()
        self.guard.bound_unsent()


def guarded(protocol: type[Any], most: int, bounds: Bounds = Bounds()) -> type[Any]:
    """The protocol with at most `most` connections, each within `bounds`."""
    return type("Guarded", (_Limited, protocol), {"guard": _Guard(most, bounds)})
