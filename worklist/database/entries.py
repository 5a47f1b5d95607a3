"""The list: what it shows, in which order, page by page.

Pages are found by the key of the row they follow, not by counting rows: page 2,000 costs what page 1 costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Select, and_, func, select, tuple_
from sqlalchemy.orm import Session

from worklist.database import counters
from worklist.database.ingest import MISSING, RANGES
from worklist.database.models import WorklistEntry, microseconds

View = Literal["unread", "read", "all", "missing"]
Sort = Literal["urgent", "newest"]
Age = Literal["", "1h", "24h", "7d"]

PAGE = 50
MAX_QUERY = 200
# Microseconds of the years 100 and 9,900: what lies outside is no date.
_EARLIEST, _LATEST = -59_000_000_000_000_000, 250_000_000_000_000_000
_AGES: dict[str, timedelta] = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reader wants to see."""

    view: View = "unread"
    label: str = ""
    version: str = ""
    age: Age = ""
    q: str = ""
    sort: Sort = "urgent"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filter":
        """The filter that an address asks for; what it does not know counts as not said."""

        def one(name: str, allowed: tuple[str, ...]) -> Any:
            return query[name] if query.get(name) in allowed else getattr(plain, name)

        plain = cls()
        return cls(
            view=one("view", get_args(View)),
            label=one("label", tuple(RANGES)),
            version=query.get("version", "")[:128].strip(),
            age=one("age", get_args(Age)),
            q=query.get("q", "")[:MAX_QUERY].strip(),
            sort=one("sort", get_args(Sort)),
        )

    def query(self, **changes: str) -> str:
        """The filter as the query of an address, with what differs from the plain one; `?` included."""
        names = ("view", "label", "version", "age", "q", "sort")
        changed = replace(self, **{name: value for name, value in changes.items() if name in names})
        more = {name: value for name, value in changes.items() if name not in names}
        said = {name: getattr(changed, name) for name in names if getattr(changed, name) != getattr(Filter(), name)}
        return "?" + urlencode(said | more) if said or more else ""

    def where(self, now: datetime) -> list[ColumnElement[bool]]:
        """The same as conditions for the database."""
        conditions = [_place(self)]
        if self.view in ("unread", "read"):
            conditions.append(WorklistEntry.read == (1 if self.view == "read" else 0))
        if self.version:
            conditions.append(WorklistEntry.version == self.version)
        if self.age:
            conditions.append(WorklistEntry.arrived >= now - _AGES[self.age])
        if self.q:
            conditions.append(WorklistEntry.sought.contains(self.q.lower(), autoescape=True))
        return conditions

    def matches(self, entry: WorklistEntry, now: datetime) -> bool:
        """The same for one entry, without asking the database."""
        return (
            (entry.label is None) == (self.view == "missing")
            and self.view in ("all", "missing", "read" if entry.read else "unread")
            and (self.label in ("", entry.label) or self.view == "missing")
            and self.version in ("", entry.version)
            and (not self.age or entry.arrived >= now - _AGES[self.age])
            and self.q.lower() in entry.sought
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a row in the list."""

    priority: int
    arrived: int
    number: int

    @classmethod
    def at(cls, entry: WorklistEntry) -> "Cursor":
        """The place of an entry."""
        return cls(entry.priority, microseconds(entry.arrived), entry.number)

    @classmethod
    def read(cls, text: str) -> "Cursor | None":
        """The place that an address names; None when it names none."""
        parts = text.split(".")
        if len(parts) != 3 or not all(
            part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in parts
        ):
            return None
        values = [int(part) for part in parts if len(part) < 19]
        return cls(*values) if len(values) == 3 and _EARLIEST < values[1] < _LATEST else None

    def __str__(self) -> str:
        """What `read` reads."""
        return f"{self.priority}.{self.arrived}.{self.number}"


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Rows of the list, and whether there are more on either side."""

    entries: list[WorklistEntry]
    has_next: bool
    has_previous: bool

    @property
    def next(self) -> str | None:
        """The place that the next page follows."""
        return str(Cursor.at(self.entries[-1])) if self.has_next and self.entries else None

    @property
    def previous(self) -> str | None:
        """The place that the previous page ends before."""
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
    """The rows after a place, or the ones that end before it."""
    backwards = before is not None
    found = list(session.scalars(_ordered(wanted, after, before, now, size + 1)))
    more = len(found) > size
    found = found[:size]
    if backwards:
        found.reverse()
    return EntryPage(found, has_next=backwards or more, has_previous=more if backwards else after is not None)


def neighbours(session: Session, wanted: Filter, entry: WorklistEntry) -> tuple[str | None, str | None]:
    """The identities of the rows before and after an entry, which need not be in the list itself any more."""
    place = Cursor.at(entry)
    before = session.scalar(_ordered(wanted, None, place, None, 1))
    after = session.scalar(_ordered(wanted, place, None, None, 1))
    return before and before.identity, after and after.identity


def find(session: Session, identity: str) -> WorklistEntry | None:
    """The entry of an upload."""
    return session.scalar(select(WorklistEntry).where(WorklistEntry.identity == identity))


def same_key(session: Session, entry: WorklistEntry, limit: int = 20) -> list[WorklistEntry]:
    """Earlier and later uploads under the same key, the newest first."""
    same = and_(
        WorklistEntry.key == entry.key, WorklistEntry.bucket == entry.bucket, WorklistEntry.number != entry.number
    )
    return list(session.scalars(select(WorklistEntry).where(same).order_by(WorklistEntry.arrived.desc()).limit(limit)))


def latest(session: Session, limit: int) -> list[WorklistEntry]:
    """The newest uploads that were judged."""
    found = (
        select(WorklistEntry)
        .where(WorklistEntry.label.is_not(None))
        .order_by(WorklistEntry.arrived.desc(), WorklistEntry.number.desc())
    )
    return list(session.scalars(found.limit(limit)))


def versions(session: Session) -> list[str]:
    """Model versions in the list, the highest first."""
    return sorted(
        session.scalars(select(WorklistEntry.version).distinct()), key=lambda version: (len(version), version)
    )[::-1]


def count_unsure(session: Session) -> int:
    """How many uploads the model is unsure of."""
    return session.scalar(select(func.count()).select_from(WorklistEntry).where(WorklistEntry.label == "Unsure")) or 0


@dataclass(frozen=True, slots=True)
class Counters:
    """How many uploads there are of each kind."""

    uploaded: int = 0
    judged: int = 0
    pneumonia: int = 0
    unsure: int = 0
    refused: int = 0
    unread: int = 0
    urgent: int = 0
    deidentified: int = 0
    dead_lettered: int = 0


def count(session: Session) -> Counters:
    """How many uploads there are of each kind; `urgent` are those with Pneumonia that nobody has read."""
    asked = select(WorklistEntry.outcome, WorklistEntry.label, WorklistEntry.read, func.count()).group_by(
        WorklistEntry.outcome, WorklistEntry.label, WorklistEntry.read
    )
    rows = [cast("tuple[str, str | None, int, int]", tuple(row)) for row in session.execute(asked)]

    def total(*, outcome: str = "", label: str = "", unread: bool = False, shown: bool = False) -> int:
        return sum(
            number
            for row_outcome, row_label, read, number in rows
            if outcome in ("", row_outcome) and label in ("", row_label) and not (unread and read)
            and not (shown and row_label is None)
        )  # fmt: skip

    return Counters(
        uploaded=total(),
        judged=total(outcome="judged"),
        pneumonia=total(label="Pneumonia"),
        unsure=total(label="Unsure"),
        refused=total(outcome="refused"),
        unread=total(unread=True, shown=True),
        urgent=total(label="Pneumonia", unread=True),
        deidentified=counters.deidentified(session),
        dead_lettered=counters.dead_lettered(session),
    )


def _place(wanted: Filter) -> ColumnElement[bool]:
    """Which labels are wanted, in words that lead the database to the index of the order that is wanted."""
    if wanted.view == "missing":
        return WorklistEntry.priority == MISSING
    if wanted.sort == "newest" and not wanted.q:
        return WorklistEntry.label == wanted.label if wanted.label else WorklistEntry.priority != MISSING
    first, last = RANGES.get(wanted.label, (0, MISSING - 1))
    return WorklistEntry.priority.between(first, last)


def _ordered(
    wanted: Filter, after: Cursor | None, before: Cursor | None, now: datetime | None, limit: int
) -> Select[WorklistEntry]:
    """Rows in the order that is wanted; backwards from `before`."""
    urgent = wanted.sort == "urgent"
    columns = (
        (WorklistEntry.priority, WorklistEntry.arrived, WorklistEntry.number)
        if urgent
        else (WorklistEntry.arrived, WorklistEntry.number)
    )
    conditions = wanted.where(now or datetime.now(UTC))
    place = after or before
    # "Newest" runs down its index, "urgent" up; reading towards earlier rows turns both around.
    upwards = urgent == (before is None)
    if place:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=place.arrived)
        values = (place.priority, moment, place.number) if urgent else (moment, place.number)
        here = tuple_(*columns)
        conditions.append(here > values if upwards else here < values)
    order = [column.asc() if upwards else column.desc() for column in columns]
    if wanted.q:
        # The names are read from an index that holds little else; the rows only of what was found.
        found = select(WorklistEntry.number).where(*conditions).order_by(*order).limit(limit)
        return select(WorklistEntry).where(WorklistEntry.number.in_(found)).order_by(*order)
    return select(WorklistEntry).where(*conditions).order_by(*order).limit(limit)
