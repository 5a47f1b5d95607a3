"""The list: what it shows, in which order, page by page.

Pagination uses keysets, not offsets: page 2,000 costs as much as page 1.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from worklist.database import counters
from worklist.database.ingest import MISSING, RANGES
from worklist.database.models import SET_ASIDE, SET_ASIDE_PRIORITY, WorklistEntry, microseconds

View = Literal["unread", "read", "all", "missing"]
Sort = Literal["urgent", "newest"]
Age = Literal["", "1h", "24h", "7d"]

PAGE = 50
MAX_QUERY = 200
# Microseconds of the years 100 and 9,900; values outside are not dates.
_EARLIEST, _LATEST = -59_000_000_000_000_000, 250_000_000_000_000_000
_AGES: dict[str, timedelta] = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


@dataclass(frozen=True, slots=True)
class Filter:
    """The selection and order of a list."""

    view: View = "unread"
    label: str = ""
    version: str = ""
    age: Age = ""
    q: str = ""
    sort: Sort = "urgent"
    patients: frozenset[int] = frozenset()
    """Numbers of entries that a search by patient found; not in a URL."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filter":
        """The filter in a URL query; unknown values are ignored."""

        def choice(name: str, allowed: tuple[str, ...]) -> Any:
            return query[name] if query.get(name) in allowed else getattr(plain, name)

        plain = cls()
        return cls(
            view=choice("view", get_args(View)),
            label=choice("label", tuple(RANGES)),
            version=query.get("version", "")[:128].strip(),
            age=choice("age", get_args(Age)),
            q=query.get("q", "")[:MAX_QUERY].strip(),
            sort=choice("sort", get_args(Sort)),
        )

    def query(self, **changes: str) -> str:
        """The filter as a URL query, `?` included; defaults are left out."""
        names = ("view", "label", "version", "age", "q", "sort")
        changed = replace(self, **{name: value for name, value in changes.items() if name in names})
        more = {name: value for name, value in changes.items() if name not in names}
        values = {name: getattr(changed, name) for name in names if getattr(changed, name) != getattr(Filter(), name)}
        return "?" + urlencode(values | more) if values or more else ""

    def where(self, now: datetime) -> list[ColumnElement[bool]]:
        """The filter as SQL conditions."""
        conditions = [_place(self)]
        if self.view in ("unread", "read"):
            conditions.append(WorklistEntry.read == (1 if self.view == "read" else 0))
        if self.version:
            conditions.append(WorklistEntry.version == self.version)
        if self.age:
            conditions.append(WorklistEntry.arrived >= now - _AGES[self.age])
        if self.q:
            named = WorklistEntry.sought.contains(self.q.lower(), autoescape=True)
            conditions.append(or_(named, WorklistEntry.number.in_(self.patients)) if self.patients else named)
        return conditions

    def matches(self, entry: WorklistEntry, now: datetime) -> bool:
        """Whether one entry passes the filter, without a query."""
        return (
            (entry.label is None) == (self.view == "missing")
            and self.view in ("all", "missing", "read" if entry.read else "unread")
            and (self.label in ("", entry.kind) or self.view == "missing")
            and self.version in ("", entry.version)
            and (not self.age or entry.arrived >= now - _AGES[self.age])
            and (self.q.lower() in entry.sought or entry.number in self.patients)
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position of a row in the list."""

    priority: int
    arrived: int
    number: int

    @classmethod
    def at(cls, entry: WorklistEntry) -> "Cursor":
        """The position of an entry."""
        return cls(entry.priority, microseconds(entry.arrived), entry.number)

    @classmethod
    def read(cls, text: str) -> "Cursor | None":
        """Parse a position from a URL; None when it is not valid."""
        parts = text.split(".")
        if len(parts) != 3 or not all(
            part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in parts
        ):
            return None
        values = [int(part) for part in parts if len(part) < 19]
        return cls(*values) if len(values) == 3 and _EARLIEST < values[1] < _LATEST else None

    def __str__(self) -> str:
        """The position as `read` parses it."""
        return f"{self.priority}.{self.arrived}.{self.number}"


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Rows of the list, and whether there are more on each side."""

    entries: list[WorklistEntry]
    has_next: bool
    has_previous: bool

    @property
    def next(self) -> str | None:
        """The position after which the next page begins."""
        return str(Cursor.at(self.entries[-1])) if self.has_next and self.entries else None

    @property
    def previous(self) -> str | None:
        """The position before which the previous page ends."""
        return str(Cursor.at(self.entries[0])) if self.has_previous and self.entries else None


def page(
    session: Session,
    wanted: Filter,
    *,
    after: Cursor | None = None,
    before: Cursor | None = None,
    size: int = PAGE,
    now: datetime | None = None,
) -> EntryPage:
    """The rows after or before a position."""
    backwards = before is not None
    rows = list(session.scalars(_ordered(wanted, after, before, now, size + 1)))
    more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()
    return EntryPage(rows, has_next=backwards or more, has_previous=more if backwards else after is not None)


def neighbours(session: Session, wanted: Filter, entry: WorklistEntry) -> tuple[str | None, str | None]:
    """The identities of the rows before and after an entry, which may have left the list itself."""
    place = Cursor.at(entry)
    before = session.scalar(_ordered(wanted, None, place, None, 1))
    after = session.scalar(_ordered(wanted, place, None, None, 1))
    return before and before.identity, after and after.identity


def find(session: Session, identity: str, *, lock: bool = False) -> WorklistEntry | None:
    """The entry of an upload; `lock` keeps other processes from changing it until the session ends."""
    statement = select(WorklistEntry).where(WorklistEntry.identity == identity)
    return session.scalar(statement.with_for_update() if lock else statement)


def result_digest(entry: WorklistEntry) -> str:
    """A value that changes with the result of an entry, and shows nothing of it."""
    return hashlib.sha256(f"{entry.record} {entry.label}".encode()).hexdigest()[:16]


def same_key(session: Session, entry: WorklistEntry, limit: int = 20) -> list[WorklistEntry]:
    """Earlier and later uploads under the same key, the newest first."""
    same = and_(
        WorklistEntry.key == entry.key, WorklistEntry.bucket == entry.bucket, WorklistEntry.number != entry.number
    )
    return list(session.scalars(select(WorklistEntry).where(same).order_by(WorklistEntry.arrived.desc()).limit(limit)))


def latest(session: Session, limit: int) -> list[WorklistEntry]:
    """The newest uploads with a label."""
    statement = (
        select(WorklistEntry)
        .where(WorklistEntry.label.is_not(None))
        .order_by(WorklistEntry.arrived.desc(), WorklistEntry.number.desc())
    )
    return list(session.scalars(statement.limit(limit)))


def versions(session: Session) -> list[str]:
    """Model versions in the list, the highest first."""
    return sorted(
        session.scalars(select(WorklistEntry.version).distinct()), key=lambda version: (len(version), version)
    )[::-1]


def count_unsure(session: Session) -> int:
    """The number of uploads with the label Unsure."""
    return session.scalar(select(func.count()).select_from(WorklistEntry).where(WorklistEntry.label == "Unsure")) or 0


@dataclass(frozen=True, slots=True)
class Counters:
    """The number of uploads of each kind."""

    uploaded: int = 0
    judged: int = 0
    pneumonia: int = 0
    unsure: int = 0
    refused: int = 0
    set_aside: int = 0
    unread: int = 0
    urgent: int = 0
    deidentified: int = 0
    dead_lettered: int = 0


def count(session: Session) -> Counters:
    """Count the uploads of each kind; `urgent` are unread ones with Pneumonia."""
    statement = select(WorklistEntry.outcome, WorklistEntry.label, WorklistEntry.read, func.count()).group_by(
        WorklistEntry.outcome, WorklistEntry.label, WorklistEntry.read
    )
    rows = [cast("tuple[str, str | None, int, int]", tuple(row)) for row in session.execute(statement)]

    def total(*, outcome: str = "", label: str = "", unread: bool = False, shown: bool = False) -> int:
        return sum(
            number
            for row_outcome, row_label, read, number in rows
            if outcome in ("", row_outcome) and label in ("", row_label) and not (unread and read)
            and not (shown and row_label is None)
        )  # fmt: skip

    aside = select(func.count()).select_from(WorklistEntry).where(WorklistEntry.priority == SET_ASIDE_PRIORITY)
    set_aside = session.scalar(aside) or 0
    return Counters(
        uploaded=total(),
        judged=total(outcome="judged"),
        pneumonia=total(label="Pneumonia"),
        unsure=total(label="Unsure"),
        refused=total(outcome="refused") - set_aside,
        set_aside=set_aside,
        unread=total(unread=True, shown=True),
        urgent=total(label="Pneumonia", unread=True),
        deidentified=counters.deidentified(session),
        dead_lettered=counters.dead_lettered(session),
    )


def _place(wanted: Filter) -> ColumnElement[bool]:
    """The condition on the label, written so that the database uses the index of the requested order."""
    if wanted.view == "missing":
        return WorklistEntry.priority == MISSING
    if wanted.sort == "newest" and not wanted.q:
        if not wanted.label:
            return WorklistEntry.priority != MISSING
        if wanted.label in ("Refused", SET_ASIDE):  # one label, told apart by their places
            return and_(WorklistEntry.label == "Refused", WorklistEntry.priority == RANGES[wanted.label][0])
        return WorklistEntry.label == wanted.label
    first, last = RANGES.get(wanted.label, (0, MISSING - 1))
    return WorklistEntry.priority.between(first, last)


def _ordered(
    wanted: Filter, after: Cursor | None, before: Cursor | None, now: datetime | None, limit: int
) -> Select[WorklistEntry]:
    """Rows in the requested order; backwards from `before`."""
    urgent = wanted.sort == "urgent"
    columns = (
        (WorklistEntry.priority, WorklistEntry.arrived, WorklistEntry.number)
        if urgent
        else (WorklistEntry.arrived, WorklistEntry.number)
    )
    conditions = wanted.where(now or datetime.now(UTC))
    place = after or before
    # "Newest" runs down its index, "urgent" up; paging backwards reverses both.
    upwards = urgent == (before is None)
    if place:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=place.arrived)
        values = (place.priority, moment, place.number) if urgent else (moment, place.number)
        position = tuple_(*columns)
        conditions.append(position > values if upwards else position < values)
    order = [column.asc() if upwards else column.desc() for column in columns]
    if wanted.q:
        # Names are searched in a covering index; full rows are read only for matches.
        matches = select(WorklistEntry.number).where(*conditions).order_by(*order).limit(limit)
        return select(WorklistEntry).where(WorklistEntry.number.in_(matches)).order_by(*order)
    return select(WorklistEntry).where(*conditions).order_by(*order).limit(limit)
