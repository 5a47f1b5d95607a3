"""Writes to the broker's log, in their order: what waits at a time is one transaction."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from laptop.services.broker_log import BrokerLog, Change

TIDY_SECONDS = 1.0
log = logging.getLogger("lungline.broker")

Written = asyncio.Future[list[int | None]]


class Writer:
    """Writes in an order and on a thread of its own; what waits at a time is one transaction."""

    def __init__(self, path: Path) -> None:
        self._log = BrokerLog(path)
        self._tidying = BrokerLog(path)
        self._thread = ThreadPoolExecutor(1, "broker-log")
        self._waiting: list[tuple[list[Change], Written]] = []
        self._work: asyncio.Task[None] | None = None
        self.transactions = 0

    def write(self, changes: list[Change]) -> Written:
        """Make changes together; the result is as of `BrokerLog.write`."""
        written: Written = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, written))
        if self._work is None:
            self._work = asyncio.create_task(self._write_all())
        return written

    async def keep_tidy(self, prune: Callable[[BrokerLog], object]) -> None:
        """Prune the log and keep its journal short, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                await loop.run_in_executor(self._thread, prune, self._log)
                # The most of it beside the writes, and between two writes what they have added meanwhile.
                await asyncio.to_thread(self._tidying.tidy)
                await loop.run_in_executor(self._thread, self._log.tidy)
            except sqlite3.Error as exc:
                log.warning("The broker's log cannot be kept short: %s.", exc)

    def close(self) -> None:
        """Finish what has begun."""
        self._thread.shutdown()
        self._tidying.close()
        self._log.close()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            changes = [change for together, _ in batch for change in together]
            self.transactions += 1
            try:
                versions = await loop.run_in_executor(self._thread, self._log.write, changes)
            except (sqlite3.Error, RuntimeError) as exc:  # RuntimeError: it has been closed
                for _, written in batch:
                    if not written.done():
                        written.set_exception(exc)
                continue
            place = 0
            for together, written in batch:
                if not written.done():
                    written.set_result(versions[place : place + len(together)])
                place += len(together)
        self._work = None
