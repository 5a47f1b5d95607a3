"""Answers to writes wait for the disk: what the store has acknowledged is there after a power cut.

The store itself syncs nothing that it writes over S3: its volumes could, but not over S3, and the filer's database
never does. So the gate holds back each answer to a write until the disk has what was written before it. All answers
that wait at a time wait for the same sync: many uploads at once cost hardly more than a single one.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from laptop.services.relay import CHUNK

_READING = (b"GET ", b"HEAD ")
_INTERIM, _FAILURE = b"HTTP/1.1 100", b"HTTP/1.1 5"


class Disk:
    """The file system of a folder; `settle` returns when it has whatever was written before the call."""

    def __init__(self, folder: Path) -> None:
        self.syncs = 0
        """How many have begun."""
        # One handle for all syncs: the kernel reports a failed write once to each.
        self._handle = os.open(folder, os.O_RDONLY)
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        """Wait for a sync that begins from now on. Raises OSError when the disk could not take everything."""
        if self._next is None:
            self._next = asyncio.create_task(self._sync())
        await asyncio.shield(self._next)  # others wait for it as well

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._handle)

    async def _sync(self) -> None:
        async with self._turn:
            self._next = None  # from here on it may be too late for what is written
            self.syncs += 1
            await asyncio.to_thread(_sync_file_system, self._handle)


class Exchange:
    """The requests and answers of one HTTP connection to the store; its pumps are for `relay.hand_on`."""

    def __init__(self, disk: Disk, write_failed: Callable[[], None] = lambda: None) -> None:
        self._disk = disk
        self._write_failed = write_failed
        self._turns = Turns()

    async def requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float
    ) -> None:
        """Hand on what the client sends."""
        while data := await reader.read(CHUNK):
            self._turns.on_request(data)
            await _hand_on(data, writer, move, stall)

    async def responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float
    ) -> None:
        """Hand on what the store answers, to a write once the disk has it."""
        while data := await reader.read(CHUNK):
            if not self._turns.may_pass(data):
                if data.startswith(_FAILURE):
                    self._write_failed()
                await self._disk.settle()
            await _hand_on(data, writer, move, stall)


class Turns:
    """Whether an answer may go to the client at once.

    Where it is unsure it takes a request for a write: such an answer is merely later.
    """

    def __init__(self) -> None:
        self._writes = True
        self._is_answered = True

    def on_request(self, data: bytes) -> None:
        """Take note of bytes from the client: the begin of a request, or more of its body."""
        self._writes = not data.startswith(_READING) or (self._writes and not self._is_answered)
        self._is_answered = False

    def may_pass(self, data: bytes) -> bool:
        """Take note of bytes from the store; False while they acknowledge a write."""
        if data.startswith(_INTERIM):
            return True
        self._is_answered = True
        return not self._writes


async def _hand_on(data: bytes, writer: asyncio.StreamWriter, move: Callable[[], None], stall: float) -> None:
    move()
    writer.write(data)
    async with asyncio.timeout(stall):
        await writer.drain()
    move()


def _sync_file_system(handle: int) -> None:
    if sys.platform != "linux":
        os.sync()  # it does not wait everywhere
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(handle) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
