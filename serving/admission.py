"""Which requests are taken: bytes are counted as they come, events have room of their own, slow senders make way.

All of this runs on the event loop's thread.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lungline.errors import Busy
from lungline.events.cloudevents import MAX_EVENT_BYTES
from serving.http import NoRoom


@dataclass(frozen=True, slots=True)
class AppLimits:
    """What the app accepts: requests that queue, queue in memory."""

    body_seconds: float = 30.0
    # Longer than the slowest upload that still succeeds (its store calls at their limits).
    answer_seconds: float = 100.0
    events: int = 64
    """Complete requests that may hold events, in flight."""
    images: int = 64
    """Other complete requests in flight."""
    small_bodies: int = 64
    """Bodies of the size of an event that are held in memory at once."""
    large_bodies: float = 1.5
    """Bodies of the largest size that are held in memory at once."""
    small_patience: float = 1.0
    large_patience: float = 10.0
    """Seconds after which an incomplete body makes way for another one, when there is no room for both."""


@dataclass(slots=True, eq=False)
class _Room:
    """Bytes of bodies; those that are incomplete are in the order of their arrival."""

    free: int
    patience: float
    incomplete: "dict[Body, None]" = field(default_factory=dict)

    def take(self, size: int, body: "Body") -> None:
        """Raises NoRoom when there is none, and no slow body that could make way."""
        while self.free < size:
            oldest = next((other for other in self.incomplete if other is not body), None)
            if oldest is None or asyncio.get_running_loop().time() - oldest.began < self.patience:
                raise NoRoom("Too many requests are in flight; try again.")
            oldest.evict()
        self.free -= size


class Body:
    """What a body holds of the rooms; it moves to the room of large ones when it has become too large for an event."""

    timeout: asyncio.Timeout
    """Of the wait for the rest of it."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._room: _Room | None = None
        self.size = 0
        self.evicted = False
        self.began = asyncio.get_running_loop().time()

    @property
    def is_large(self) -> bool:
        """Whether it is too large for an event."""
        return self.size > self._admission.small_size

    def grow(self, size: int) -> None:
        """Count bytes that have come. Raises NoRoom."""
        total = self.size + size
        room = self._admission.small if total <= self._admission.small_size else self._admission.large
        if room is self._room:
            room.take(size, self)
        else:
            room.take(total, self)
            self.release()
            room.incomplete[self] = None
        self._room, self.size = room, total

    def complete(self) -> None:
        """It makes way for nobody any more."""
        if self._room is not None:
            self._room.incomplete.pop(self, None)

    def evict(self) -> None:
        """End the wait for the rest of it."""
        self.evicted = True
        self.release()
        self.timeout.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """Give back what it holds."""
        if self._room is not None:
            self._room.free += self.size
            self._room.incomplete.pop(self, None)
            self._room = None


class Admission:
    """The rooms and slots of an app whose largest body has `max_body` bytes."""

    def __init__(self, limits: AppLimits, max_body: int) -> None:
        self.small_size = min(MAX_EVENT_BYTES, max_body)
        self.small = _Room(limits.small_bodies * self.small_size, limits.small_patience)
        self.large = _Room(round(limits.large_bodies * max_body), limits.large_patience)
        self._free = {True: limits.events, False: limits.images}

    @contextmanager
    def slot(self, *, is_event: bool) -> Generator[None]:
        """A place among the requests in flight. Raises Busy."""
        if self._free[is_event] < 1:
            raise Busy("Too many requests are in flight; try again.")
        self._free[is_event] -= 1
        try:
            yield
        finally:
            self._free[is_event] += 1
