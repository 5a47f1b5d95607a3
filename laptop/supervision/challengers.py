"""Starts and stops the services of challengers while the stack runs, as the home's file names them.

Without a challenger nothing runs for one. Each start takes a free port: only its own trigger needs to know it.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from laptop.home.challengers import Challenger, challengers
from laptop.home.ports import free_port
from laptop.services.challenger import Wiring
from laptop.services.service import Service
from laptop.supervision.listeners import Listeners, open_listeners
from lungline.errors import LunglineError
from lungline.results.purposes import Purpose

LOOK_SECONDS = 0.5

log = logging.getLogger("lungline.supervisor")


class Host(Protocol):
    """What runs services: the supervisor."""

    def add(self, services: Sequence[Service], listeners: Listeners) -> None:
        """Run further services."""
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Stop services and forget them."""
        ...


class Challengers:
    """Follows the home's file; `run` until it is cancelled."""

    def __init__(self, wiring: Wiring, host: Host) -> None:
        self._wiring = wiring
        self._host = host
        self._running: dict[Purpose, tuple[Challenger, tuple[str, ...]]] = {}
        self._fault = ""

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.look()
            except LunglineError as exc:  # no port was free
                if str(exc) != self._fault:
                    log.warning("%s", exc)
                self._fault = str(exc)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Stop what the file names no more, and start what it names anew."""
        wanted = challengers(self._wiring.home)
        for purpose, (challenger, names) in list(self._running.items()):
            if wanted.get(purpose) != challenger:
                await self._host.remove(names)
                del self._running[purpose]
        for purpose, challenger in wanted.items():
            if purpose not in self._running:
                self._start(challenger)

    def _start(self, challenger: Challenger) -> None:
        services = self._wiring.services(challenger, free_port())
        self._host.add(services, open_listeners(services))
        self._running[challenger.purpose] = challenger, tuple(service.name for service in services)
