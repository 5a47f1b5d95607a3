"""The list: what it shows, in which order, page by page.

Pagination uses keysets, not offsets: page 2,000 costs as much as page 1.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from lungline.results.records import REFUSED, UNSURE
from lungline.task.terms import TaskTerms, default_terms
from worklist.database import counters
from worklist.database.ingest import MISSING, RANGES
from worklist.database.models import SET_ASIDE, SET_ASIDE_PRIORITY, WorklistEntry, microseconds
from worklist.tasks import KnownTasks, Place

View = Literal["unread", "read", "all", "missing"]
Sort = Literal["urgent", "newest"]
Age = Literal["", "1h", "24h", "7d"]

_DEFAULT = KnownTasks((default_terms(),))
PAGE = 50
MAX_QUERY = 200
# Microseconds of the years 100 and 9,900; values outside are not dates.
_EARLIEST, _LATEST = -59_000_000_000_000_000, 250_000_000_000_000_000
_AGES: dict[str, timedelta] = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


@dataclass(frozen=True, slots=True)
class Filter:
    """The selection and order of a list."""

    view: View = "unread"
    task: str = ""
    label: str = ""
    version: str = ""
    age: Age = ""
    q: str = ""
    sort: Sort = "urgent"
    patients: frozenset[int] = frozenset()
    """Numbers of entries that a search by patient found; not in a URL."""
    place: Place | None = None
    """Where the rows with the label stand; follows from it."""

    @classmethod
    def of(cls, query: Mapping[str, str], tasks: KnownTasks | None = None) -> "Filter":
        """The filter in a URL query; unknown values are ignored."""
        tasks = tasks or _DEFAULT
        task = query.get("task", "") if tasks.of(query.get("task", "")) else ""
        place = tasks.place(query.get("label", ""), task)

        def choice(name: str, allowed: tuple[str, ...]) -> Any:
            return query[name] if query.get(name) in allowed else getattr(plain, name)

        plain = cls()
        return cls(
            view=choice("view", get_args(View)),
            task=task,
            label=query["label"] if place else choice("label", tuple(RANGES)),
            place=place,
            version=query.get("version", "")[:128].strip(),
            age=choice("age", get_args(Age)),
            q=query.get("q", "")[:MAX_QUERY].strip(),
            sort=choice("sort", get_args(Sort)),
        )

    def query(self, **changes: str) -> str:
        """The filter as a URL query, `?` included; defaults are left out."""
        names = ("view", "task", "label", "version", "age", "q", "sort")
        changed = replace(self, **{name: value for name, value in changes.items() if name in names})
        more = {name: value for name, value in changes.items() if name not in names}
        values = {name: getattr(changed, name) for name in names if getattr(changed, name) != getattr(Filter(), name)}
        return "?" + urlencode(values | more) if values or more else ""

    def where(self, now: datetime) -> list[ColumnElement[bool]]:
        """The filter as SQL conditions."""
        conditions = [_place(self)]
        if self.task:
            conditions.append(WorklistEntry.task == self.task)
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
            and self.task in ("", entry.task)
            and (self.label in ("", entry.kind, *entry.others) or self.view == "missing")
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


def latest(session: Session, limit: int, task: str = "") -> list[WorklistEntry]:
    """The newest uploads with a label, by default of all tasks."""
    of_task = (WorklistEntry.task == task,) if task else ()
    statement = (
        select(WorklistEntry)
        .where(WorklistEntry.label.is_not(None), *of_task)
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
    return session.scalar(select(func.count()).select_from(WorklistEntry).where(WorklistEntry.label == UNSURE)) or 0


@dataclass(frozen=True, slots=True)
class Counters:
    """The number of uploads of each kind.

    `positive` ones have a finding, `urgent` ones are unread and have an urgent one. `tasks` has the same numbers of
    each task, where there are several.
    """

    uploaded: int = 0
    judged: int = 0
    positive: int = 0
    unsure: int = 0
    refused: int = 0
    set_aside: int = 0
    unread: int = 0
    urgent: int = 0
    deidentified: int = 0
    dead_lettered: int = 0
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)


def count(session: Session, tasks: KnownTasks | None = None) -> Counters:
    """Count the uploads of each kind."""
    tasks, by_task = tasks or _DEFAULT, defaultdict[str, Counter[str]](Counter)
    columns = (WorklistEntry.outcome, WorklistEntry.task, WorklistEntry.label, WorklistEntry.read)
    for row in session.execute(select(*columns, func.count()).group_by(*columns)):
        outcome, task, label, read, number = cast("tuple[str, str, str | None, int, int]", tuple(row))
        by_task[task].update(dict.fromkeys(_counted(outcome, tasks.of(task), label, read), number))
    aside = select(WorklistEntry.task, func.count()).where(WorklistEntry.priority == SET_ASIDE_PRIORITY)
    for task, number in session.execute(aside.group_by(WorklistEntry.task)):
        by_task[task].update(set_aside=number, refused=-number)
    total = sum(by_task.values(), Counter[str]())
    elsewhere = {"deidentified": counters.deidentified(session), "dead_lettered": counters.dead_lettered(session)}
    each = {task: {name: numbers[name] for name in _NUMBERS} | elsewhere for task, numbers in by_task.items()}
    return Counters(**{name: total[name] for name in _NUMBERS}, **elsewhere, tasks=each if len(each) > 1 else {})


_NUMBERS = ("uploaded", "judged", "positive", "unsure", "refused", "set_aside", "unread", "urgent")


def _counted(outcome: str, task: TaskTerms | None, label: str | None, read: int) -> Iterator[str]:
    """The counters that an upload adds to. A label that is not known counts as positive: nothing is overlooked."""
    finding = task and task.labelled(label)
    yield "uploaded"
    if outcome in ("judged", "refused"):
        yield outcome
    if label is not None and not read:
        yield "unread"
    if label == UNSURE:
        yield "unsure"
    elif label not in (None, REFUSED) and not (finding and finding.negative):
        yield "positive"
        if not read and (finding is None or finding.urgency == "urgent"):
            yield "urgent"


def _place(wanted: Filter) -> ColumnElement[bool]:
    """The condition on the label, written so that the database uses the index of the requested order."""
    if wanted.view == "missing":
        return WorklistEntry.priority == MISSING
    place = wanted.place or _DEFAULT.place(wanted.label)
    if wanted.sort == "newest" and not wanted.q:
        if not wanted.label:
            return WorklistEntry.priority != MISSING
        if wanted.label in (REFUSED, SET_ASIDE):  # one label, told apart by their places
            return and_(WorklistEntry.label == REFUSED, WorklistEntry.priority == RANGES[wanted.label][0])
        return _labelled(wanted.label, also=place is not None and place.also)
    if place is None:
        return WorklistEntry.priority.between(*RANGES.get(wanted.label, (0, MISSING - 1)))
    within = WorklistEntry.priority.between(place.first, place.last)
    return within if place.label is None else and_(within, _labelled(place.label, also=place.also))


def _labelled(label: str, *, also: bool) -> ColumnElement[bool]:
    same = WorklistEntry.label == label
    return or_(same, WorklistEntry.also.contains(f"|{label}|", autoescape=True)) if also else same


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
