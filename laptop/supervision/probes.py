"""Probes and housekeeping of the services, on threads of their own: those of a hung service keep no other waiting."""

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from laptop.services.service import Service
from lungline.errors import LunglineError
from lungline.service_state import State

# A probe that takes longer shows that its service gives no sign.
PATIENCE_SECONDS = 5.0
# After a probe that failed for a reason of its own.
PAUSE_SECONDS = 1.0
# One for each service's probe and one for its housekeeping.
THREADS = 24

log = logging.getLogger("lungline.supervisor")


class Probes:
    """At most one probe of a process and one housekeeping of a service go on at a time."""

    def __init__(self) -> None:
        self._current: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._threads = ThreadPoolExecutor(THREADS, "probe")

    async def state(self, service: Service, pid: int) -> State:
        """The service's state, or `not answering` when the probe takes too long; then it goes on by itself."""
        probing = self._begin(service.name, f"probe {pid}", self._probe(service, pid))
        done, _ = await asyncio.wait({probing}, timeout=PATIENCE_SECONDS)
        return probing.result() if done else "not answering"

    def maintain(self, service: Service) -> None:
        """Begin the service's housekeeping, unless the last one still goes on."""
        self._begin(service.name, "maintain", self._maintain(service))

    def forget(self, name: str, pid: int) -> None:
        """Forget the probe of a process that has ended."""
        self._current.pop((name, f"probe {pid}"), None)

    def _begin(self, name: str, what: str, work: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
        current = self._current.get((name, what))
        if current is not None and not current.done():
            work.close()
            return current
        current = self._current[(name, what)] = asyncio.ensure_future(work)
        return current

    async def _probe(self, service: Service, pid: int) -> State:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, service.probe, pid)
        except Exception:
            log.exception("The %s could not be probed.", service.name)
            await asyncio.sleep(PAUSE_SECONDS)
            return "starting"

    async def _maintain(self, service: Service) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, service.maintain)
        except LunglineError as exc:
            log.warning("%s: %s", service.name, exc)
        except Exception:
            log.exception("%s: its housekeeping failed; it is tried again.", service.name)
