"""Changes of the list, pushed to every open page as server-sent events.

One task follows the database and tells all pages: what another process took in shows as well, and two hundred pages
cost one query. A page that cannot keep up is told to load its list again.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from worklist.database import counters, entries
from worklist.database.entries import Counters, Cursor, Filter
from worklist.database.models import WorklistEntry, microseconds
from worklist.database.session import Database, DatabaseUnavailable

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
BACKLOG = 64
BURST = 200
# Two processes may commit in another order than their clocks say: each look goes back this far.
_OVERLAP = 5_000_000

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class LivePage:
    """One open page: its filter, and what it has yet to be sent."""

    wanted: Filter
    waiting: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(BACKLOG))
    lost: bool = False

    def tell(self, message: str) -> None:
        """Queue a message; a page that is too far behind loads its list again instead."""
        try:
            self.waiting.put_nowait(message)
        except asyncio.QueueFull:
            self.lost = True


class Live:
    """The open pages, and the task that tells them of changes. `render` makes a row of the list."""

    def __init__(self, database: Database, render: Callable[[WorklistEntry], str]) -> None:
        self.counters = Counters()
        self._database = database
        self._render = render
        self._pages: set[LivePage] = set()
        self._seen: dict[str, int] = {}
        self._last = microseconds(datetime.now(UTC))
        self._signalled = (0, 0)
        self._nudge = asyncio.Event()
        self._closing = False
        self._process, self._told = secrets.token_hex(4), 0

    @property
    def mark(self) -> str:
        """How far the pages have been told; read it before the rows that a page is shown with."""
        return f"{self._process}.{self._told}"

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    def nudge(self) -> None:
        """Look at the database now rather than in half a second."""
        self._nudge.set()

    async def run(self) -> None:
        """Follow the database until closed; a database that does not answer is asked again."""
        self.counters = await self._count()
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), POLL_SECONDS)
            self._nudge.clear()
            try:
                changed, signalled = await run_in_threadpool(self._look)
                if changed != [] or signalled != self._signalled:
                    self._signalled = signalled
                    self.counters = await self._count()
                    self._tell(changed)
            except DatabaseUnavailable as exc:
                _log.warning("The live list waits: %s", exc)

    async def follow(self, wanted: Filter) -> AsyncIterator[str]:
        """What a page is sent, from now on."""
        page = LivePage(wanted)
        self._pages.add(page)
        try:
            # What changed between a page's rows and this moment was told to others only: the mark gives it away.
            yield "retry: 1000\n" + _event("opened", {"mark": self.mark}) + _event("counters", asdict(self.counters))
            while not self._closing:
                try:
                    message = await asyncio.wait_for(page.waiting.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    message = ": still here\n\n"
                if page.lost:
                    page.lost, page.waiting, message = False, asyncio.Queue(BACKLOG), _event("reload", {})
                yield message
        finally:
            self._pages.discard(page)

    def close(self) -> None:
        """Let all pages go: they come back to the next process."""
        self._closing = True
        self._nudge.set()
        for page in self._pages:
            page.tell(": goodbye\n\n")

    async def _count(self) -> Counters:
        def count() -> Counters:
            with self._database.reading() as session:
                return entries.count(session)

        try:
            return await run_in_threadpool(count)
        except DatabaseUnavailable:
            return self.counters

    def _look(self) -> tuple[list[WorklistEntry] | None, tuple[int, int]]:
        """Entries that changed since the last look, None when there are too many to be told one by one; signals."""
        with self._database.reading() as session:
            return self._changed(session), counters.state(session)

    def _changed(self, session: Session) -> list[WorklistEntry] | None:
        asked = select(WorklistEntry.identity, WorklistEntry.touched).where(
            WorklistEntry.touched > self._last - _OVERLAP
        )
        found = {row[0]: row[1] for row in session.execute(asked)}
        fresh = [identity for identity, touched in found.items() if self._seen.get(identity) != touched]
        self._seen = found
        self._last = max([self._last, *found.values()])
        if len(fresh) > BURST:
            return None
        return list(session.scalars(select(WorklistEntry).where(WorklistEntry.identity.in_(fresh)))) if fresh else []

    def _tell(self, changed: list[WorklistEntry] | None) -> None:
        self._told += 1
        told = _event("told", {"mark": self.mark}) + _event("counters", asdict(self.counters))
        now = datetime.now(UTC)
        rows: dict[str, str] = {}
        for page in list(self._pages):
            page.lost = page.lost or changed is None
            for entry in changed or ():
                page.tell(self._message(page, entry, now, rows))
            page.tell(told)

    def _message(self, page: LivePage, entry: WorklistEntry, now: datetime, rows: dict[str, str]) -> str:
        if not page.wanted.matches(entry, now):
            return _event("gone", {"identity": entry.identity})
        if entry.identity not in rows:
            row = {"identity": entry.identity, "place": str(Cursor.at(entry)), "html": self._render(entry)}
            rows[entry.identity] = _event("row", row)
        return rows[entry.identity]


def _event(name: str, data: object) -> str:
    # JSON has no line breaks, so that nothing in it can begin a new event.
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
