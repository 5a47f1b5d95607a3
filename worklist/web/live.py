"""Changes of the list, pushed to every open page as server-sent events.

One task polls the database for all pages, so changes by other processes show as well and two hundred pages cost one
query. A page that cannot keep up is told to reload its list.

Heartbeats come from that task and only after a successful poll, so their absence tells a page that its list may be old,
whether the network, a proxy, this process or the database is the cause.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from worklist.database import counters, entries
from worklist.database.entries import Counters, Cursor, Filter
from worklist.database.models import WorklistEntry, microseconds
from worklist.database.session import Database, DatabaseUnavailable
from worklist.web.task_book import TaskBook

POLL_SECONDS = 0.5
# A change is shown at once, and those that follow it within this time together: a poll counts the whole list.
# It takes 10 ms for each hundred thousand uploads, and may take a tenth of a core.
GATHER_SECONDS, LONGEST_GATHER_SECONDS = 0.2, 1.0
POLL_SHARE = 0.1
HEARTBEAT_SECONDS = 4.0
# Sessions that expire commit nothing.
ASK_SECONDS = 2.0
BACKLOG = 64
# Of more than one message; the rows of one round are one message.
BACKLOG_CHARACTERS = 300_000
# Tabs of one browser, and of one that was left open; more than these only take connections from others.
PAGES_OF_A_SESSION = 64
BURST = 200
# Processes may commit in another order than their clocks say, so each poll looks back this many microseconds.
_OVERLAP = 5_000_000

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class LivePage:
    """One open page: its filter, the digest of its session, and its unsent messages."""

    wanted: Filter
    session: str = ""
    waiting: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(BACKLOG))
    characters: int = 0
    """Of the messages that wait."""
    lost: bool = False
    over: bool = False

    def send(self, message: str) -> None:
        """Queue a message; a page that is too far behind reloads its list instead."""
        if self.waiting.full() or (self.characters and self.characters + len(message) > BACKLOG_CHARACTERS):
            self.lost = True
            return
        self.waiting.put_nowait(message)
        self.characters += len(message)

    async def next(self) -> str:
        """The next message; after a loss, one that says so and nothing of what waited."""
        message = await self.waiting.get()
        self.characters -= len(message)
        if self.lost:
            self.lost, self.waiting, self.characters = False, asyncio.Queue(BACKLOG), 0
            return _event("reload", {})
        return message

    def end(self) -> None:
        """End the stream of a session that has ended; nothing more is shown, not even what is queued."""
        self.over = True
        self.send(_event("ended", {}))


@dataclass(frozen=True, slots=True)
class _News:
    """What a round has found: sessions that go on, None if nobody asked; entries, and counters if anything changed."""

    alive: Collection[str] | None
    changed: list[WorklistEntry] | None = None
    counters: Counters | None = None


class Live:
    """The open pages, and the task that sends them changes.

    `render` renders a row of the list, `alive` says which of some sessions go on.
    """

    def __init__(
        self,
        database: Database,
        render: Callable[[WorklistEntry], str],
        alive: Callable[[Collection[str]], set[str]] = set,
        tasks: TaskBook | None = None,
    ) -> None:
        self.counters = Counters()
        self._database = database
        self._render = render
        self._alive = alive
        self._tasks = tasks
        self._pages: set[LivePage] = set()
        self._seen: dict[str, int] = {}
        self._last = microseconds(datetime.now(UTC))
        self._counted = (0, 0)
        self._version: int | None = None
        self._asked: tuple[frozenset[str], int | None] = (frozenset(), None)
        self._asked_at = 0.0
        self._nudge = asyncio.Event()
        self._closing = False
        self._beat = self._polled = 0.0
        self._process, self._round = secrets.token_hex(4), 0

    @property
    def mark(self) -> str:
        """The last round of changes sent to pages; read it before querying the rows of a page."""
        return f"{self._process}.{self._round}"

    @property
    def pages(self) -> int:
        """The number of open pages."""
        return len(self._pages)

    def has_room(self, session: str) -> bool:
        """Whether a session may open one more page."""
        return sum(page.session == session for page in self._pages) < PAGES_OF_A_SESSION

    def nudge(self) -> None:
        """Poll the database now rather than in half a second."""
        self._nudge.set()

    async def run(self) -> None:
        """Poll the database until closed; errors are retried."""
        self.counters = await run_in_threadpool(self._count)
        begun, gather = time.monotonic(), GATHER_SECONDS
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), POLL_SECONDS)
            await asyncio.sleep(begun + gather - time.monotonic())
            self._nudge.clear()
            begun = time.monotonic()
            try:
                pages = list(self._pages)
                news = await run_in_threadpool(self._news, {page.session for page in pages})
                self._end_signed_out(pages, news.alive)
                if news.counters:
                    self.counters = news.counters
                    self._broadcast(news.changed)
                self._send_heartbeat()
            except DatabaseUnavailable as exc:
                _log.warning("Live updates are paused: %s", exc)
            except Exception:  # noqa: BLE001 - the task must go on; until then pages show that they are not live
                _log.exception("Live updates are paused.")
            took = time.monotonic() - begun
            gather = min(LONGEST_GATHER_SECONDS, max(GATHER_SECONDS, took / POLL_SHARE))

    async def follow(self, wanted: Filter, session: str) -> AsyncIterator[str]:
        """The event stream of a page, from now on until its session ends."""
        if not self.has_room(session):  # many of its pages were opened at once
            return
        page = LivePage(wanted, session)
        self._pages.add(page)
        try:
            # The mark tells a page whether changes were sent between its rows and this moment.
            opened = {"mark": self.mark, "at": _now() if self._is_polling() else None}
            yield "retry: 1000\n" + _event("opened", opened) + self._counters()
            while not self._closing:
                message = await page.next()
                if page.over:
                    yield _event("ended", {})
                    return
                yield message
        finally:
            self._pages.discard(page)

    def close(self) -> None:
        """End all streams; pages reconnect to the next process."""
        self._closing = True
        self._nudge.set()
        for page in self._pages:
            page.send(": goodbye\n\n")

    def _counters(self) -> str:
        """The counters, and where the colours of findings are: a task may have come that pages do not know."""
        return _event("counters", asdict(self.counters) | {"colours": self._tasks.address if self._tasks else None})

    def _news(self, sessions: Collection[str]) -> "_News":
        """What has changed since the last round; in one hand-over to a thread, because most rounds find nothing."""
        alive = self._alive(sessions) if self._must_ask(sessions) else None
        changed, counted = self._poll()
        if changed == [] and counted == self._counted:
            return _News(alive)
        self._counted = counted
        return _News(alive, changed, self._count())

    def _must_ask(self, sessions: Collection[str]) -> bool:
        """Whether sessions may have ended since the last time: after any commit, and by the clock."""
        version, now = self._database.version(), time.monotonic()
        question = (frozenset(sessions), version)
        if not sessions or (version is not None and question == self._asked and now - self._asked_at < ASK_SECONDS):
            return False
        self._asked, self._asked_at = question, now
        return True

    def _end_signed_out(self, pages: Collection[LivePage], alive: Collection[str] | None) -> None:
        """End the streams of sessions that ended since, in whichever process, or have expired."""
        for page in pages:
            if alive is not None and page.session not in alive:
                page.end()

    def _count(self) -> Counters:
        tasks = self._tasks.tasks if self._tasks else None
        try:
            with self._database.reading() as session:
                return entries.count(session, tasks)
        except DatabaseUnavailable:
            return self.counters

    def _poll(self) -> tuple[list[WorklistEntry] | None, tuple[int, int]]:
        """Entries changed since the last poll, None when too many to send one by one; state of the counters."""
        version = self._database.version()
        if version is not None and version == self._version:
            return [], self._counted  # nothing was committed
        with self._database.reading() as session:
            changed, counted = self._changed(session), counters.state(session)
        self._version = version
        return changed, counted

    def _changed(self, session: Session) -> list[WorklistEntry] | None:
        statement = select(WorklistEntry.identity, WorklistEntry.touched).where(
            WorklistEntry.touched > min(self._last, microseconds(datetime.now(UTC))) - _OVERLAP
        )
        touched_by_identity = {row[0]: row[1] for row in session.execute(statement)}
        fresh = [identity for identity, touched in touched_by_identity.items() if self._seen.get(identity) != touched]
        self._seen = touched_by_identity
        self._last = max([self._last, *touched_by_identity.values()])
        if len(fresh) > BURST:
            return None
        return list(session.scalars(select(WorklistEntry).where(WorklistEntry.identity.in_(fresh)))) if fresh else []

    def _is_polling(self) -> bool:
        return time.monotonic() - self._polled < 2 * HEARTBEAT_SECONDS

    def _send_heartbeat(self) -> None:
        self._polled = time.monotonic()
        if time.monotonic() - self._beat < HEARTBEAT_SECONDS:
            return
        self._beat = time.monotonic()
        message = _event("heartbeat", {"at": _now()})
        for page in list(self._pages):
            page.send(message)

    def _broadcast(self, changed: list[WorklistEntry] | None) -> None:
        self._round += 1
        summary = _event("sent", {"mark": self.mark}) + self._counters()
        now = datetime.now(UTC)
        rows: dict[str, str] = {}
        messages: dict[Filter, str] = {}
        for page in list(self._pages):
            page.lost = page.lost or changed is None
            if page.wanted not in messages:
                of_page = [self._message(page, entry, now, rows) for entry in changed or ()]
                messages[page.wanted] = "".join(of_page) + summary
            page.send(messages[page.wanted])

    def _message(self, page: LivePage, entry: WorklistEntry, now: datetime, rows: dict[str, str]) -> str:
        if not page.wanted.matches(entry, now):
            return _event("gone", {"identity": entry.identity})
        if entry.identity not in rows:
            row = {"identity": entry.identity, "place": str(Cursor.at(entry)), "html": self._render(entry)}
            rows[entry.identity] = _event("row", row)
        return rows[entry.identity]


def _now() -> int:
    """This moment in milliseconds, as browsers count them."""
    return round(time.time() * 1000)


def _event(name: str, data: object) -> str:
    # JSON has no line breaks, so no value can begin a new event.
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
