"""The worklist's tables.

    entries    one row for each upload, with what the latest model said of it: what the list shows and pages through
    records    every result record as it came, one for each upload and model version
    readings   what readers said; rows are only ever added
    notices    the outbox: who is to be told, who was, who has acknowledged
    signals    uploads that were dead-lettered or de-identified elsewhere, for the counters
    audit      who opened, read, corrected and exported what; rows are only ever added
    tokens     links that let somebody in once; only their digests
    sessions   who is signed in; only digests of what the cookies hold
    marks      the last of something, such as the reading that the last training run knew

The records come from S3 and can be read again from there. The readings are kept there too.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Dialect, Float, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment, kept as whole microseconds since 1970: SQLite's own dates know no time zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - inherited
        """Microseconds of a moment."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - inherited
        """The moment of microseconds."""
        return None if value is None else _EPOCH + value * _MICROSECOND


def microseconds(moment: datetime) -> int:
    """Whole microseconds from 1970 to an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


class Table(DeclarativeBase):
    """What all tables share."""

    type_annotation_map = {datetime: Instant(), str: Text()}  # noqa: RUF012 - SQLAlchemy's own spelling


# SQLite numbers rows by itself only in a column of type INTEGER.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")


class WorklistEntry(Table):
    """One upload, and what the latest model said of it.

    `priority` is the place in the list, 0 first; `arrived` the time of the upload or, where its event told none, the
    event's; `touched` the microsecond of the last change, which live pages follow.
    """

    __tablename__ = "entries"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), unique=True)
    bucket: Mapped[str]
    key: Mapped[str]
    sought: Mapped[str]
    arrived: Mapped[datetime]
    done: Mapped[datetime]
    touched: Mapped[int] = mapped_column(BigInteger, index=True)
    record: Mapped[str]
    outcome: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(16))
    probability: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    reason: Mapped[str | None]
    version: Mapped[str]
    priority: Mapped[int]
    read: Mapped[int] = mapped_column(default=0)
    read_at: Mapped[datetime | None]
    reader: Mapped[str | None]
    verdict: Mapped[str | None] = mapped_column(String(16))
    action: Mapped[str | None] = mapped_column(String(16))

    # Each way to sort has its index, alone and after what narrows it most. A label is a range of priorities.
    __table_args__ = (
        Index("entries_urgent", "priority", "arrived", "number"),
        Index("entries_unread_urgent", "read", "priority", "arrived", "number"),
        Index("entries_version_urgent", "version", "priority", "arrived", "number"),
        Index("entries_newest", "arrived", "number"),
        Index("entries_unread_newest", "read", "arrived", "number"),
        Index("entries_label_newest", "label", "arrived", "number"),
        # A search reads names from these alone, in order, and touches only the rows that it shows.
        Index("entries_search_urgent", "priority", "arrived", "number", "read", "version", "sought"),
        Index("entries_search_newest", "arrived", "number", "priority", "read", "version", "sought"),
        Index("entries_key", "key", "bucket"),
        Index("entries_counted", "outcome", "label", "read"),
    )


class ResultRow(Table):
    """A result record as it came; `body` is its JSON, `capture` is 1 while a DICOM file of it has yet to be written."""

    __tablename__ = "records"

    id: Mapped[str] = mapped_column(String(512), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    done: Mapped[datetime]
    body: Mapped[str]
    capture: Mapped[int] = mapped_column(default=0, index=True)


class ReadingRow(Table):
    """What a reader said of an upload, and which model's answer was on the screen.

    `action` is read, confirmed, corrected or reopened; `verdict` Normal, Pneumonia or Not usable. `saved` tells
    whether it lies in S3 too, so that a lost database loses no label.
    """

    __tablename__ = "readings"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    record: Mapped[str]
    version: Mapped[str]
    label: Mapped[str | None] = mapped_column(String(16))
    probability: Mapped[float | None] = mapped_column(Float)
    action: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[str | None] = mapped_column(String(16))
    comment: Mapped[str]
    reader: Mapped[str]
    at: Mapped[datetime]
    saved: Mapped[int] = mapped_column(default=0, index=True)


class Notice(Table):
    """Somebody who is to be told of an entry: at most one row for each upload, rule, step and target."""

    __tablename__ = "notices"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    rule: Mapped[str] = mapped_column(String(128))
    step: Mapped[int] = mapped_column(default=0)
    target: Mapped[int] = mapped_column(default=0)
    label: Mapped[str | None] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[datetime]
    created: Mapped[datetime]
    sent: Mapped[datetime | None]
    error: Mapped[str | None]
    escalates: Mapped[datetime | None]
    acknowledged: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("identity", "rule", "step", "target", name="notices_once"),
        Index("notices_due", "state", "due"),
    )


class Counter(Table):
    """Something that befell an upload elsewhere; counted once however often it is told."""

    __tablename__ = "signals"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str]
    at: Mapped[datetime]


class Audit(Table):
    """Who did what; `identity` is the upload's, never its key."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    act: Mapped[str] = mapped_column(String(32))
    identity: Mapped[str | None] = mapped_column(String(64), index=True)
    detail: Mapped[str]


class Token(Table):
    """A link that lets somebody in once."""

    __tablename__ = "tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    expires: Mapped[datetime]
    used: Mapped[datetime | None]


class Session(Table):
    """Somebody who is signed in."""

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    csrf: Mapped[str] = mapped_column(String(64))
    expires: Mapped[datetime]


class Checkpoint(Table):
    """The last of something."""

    __tablename__ = "marks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
