"""The worklist's tables.

    entries    one row per upload with the latest result; the list shows and pages through these
    records    every result record as received, one per upload and model version
    opinions   second opinions of other versions, which are no results
    patients   whom uploads are of, for those who may see it
    readings   the readings of readers; append-only
    notices    the outbox of notices: pending, sent and acknowledged
    deliveries the outbox of results: pending, sent and dead-lettered deliveries to other systems
    signals    uploads that were dead-lettered or de-identified elsewhere, for the counters
    audit      who looked at, searched, read, corrected and exported what; append-only, a chain of hashes
    tokens     digests of single-use sign-in links
    sessions   who is signed in; digests of the cookies
    tasks      what people read, press and send about the findings of each task
    marks      checkpoints, such as the last reading that a training run used

Records, second opinions, readings and what was delivered are also in S3, from which the database can be rebuilt.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, Dialect, Float, Index, Integer, String, Text, UniqueConstraint, select
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column
from sqlalchemy.types import TypeDecorator

from lungline.task.reading import DEFAULT

SET_ASIDE, SET_ASIDE_PRIORITY = "Set aside", 5000
"""What the list calls images that are kept and not judged, such as lateral views, and where they stand: at the end."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Of the years that Python has, without the first and the last day, which other time zones would leave.
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """A moment, stored as whole microseconds since 1970: SQLite's own dates have no time zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - inherited
        """Microseconds of a moment."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - inherited
        """The moment of microseconds, the nearest that there is: one odd value must not hide all other rows."""
        if value is None:
            return None
        return _EPOCH + min(max(value, microseconds(_FIRST)), microseconds(_LAST)) * _MICROSECOND


def microseconds(moment: datetime) -> int:
    """Whole microseconds from 1970 to an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


class Table(DeclarativeBase):
    """The base of all tables."""

    type_annotation_map = {datetime: Instant(), str: Text()}  # noqa: RUF012 - SQLAlchemy's own spelling


# SQLite assigns numbers only to a primary key of type INTEGER.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")


class WorklistEntry(Table):
    """One upload with its latest result.

    `priority` is the sort key of the list, the lowest first; `arrived` is the upload's time, or the event's when the
    upload's is unknown; `touched` is the microsecond of the last change, which live pages follow; `attention` is
    what a reader must know of the image, None when there is nothing; `also` are the labels of other findings that are
    there, each between two bars; `label` is that of the most urgent. `findings_read` are those of the reading whose
    verdict is shown.
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
    task: Mapped[str] = mapped_column(String(40), default=DEFAULT)
    label: Mapped[str | None] = mapped_column(String(32))
    also: Mapped[str | None]
    probability: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    reason: Mapped[str | None]
    attention: Mapped[str | None]
    version: Mapped[str]
    priority: Mapped[int]
    read: Mapped[int] = mapped_column(default=0)
    read_at: Mapped[datetime | None]
    reader: Mapped[str | None]
    verdict: Mapped[str | None] = mapped_column(String(32))
    action: Mapped[str | None] = mapped_column(String(16))
    if TYPE_CHECKING:
        findings_read: Mapped[dict[str, str] | None]

    @property
    def others(self) -> tuple[str, ...]:
        """The labels of the other findings that are there."""
        return tuple(filter(None, (self.also or "").split("|")))

    @property
    def kind(self) -> str | None:
        """The label, or that the image was set aside."""
        return SET_ASIDE if self.priority == SET_ASIDE_PRIORITY else self.label

    # Each order has its index, alone and behind the most selective filters. A label is a range of priorities.
    __table_args__ = (
        Index("entries_urgent", "priority", "arrived", "number"),
        Index("entries_unread_urgent", "read", "priority", "arrived", "number"),
        Index("entries_task_urgent", "task", "priority", "arrived", "number"),
        Index("entries_version_urgent", "version", "priority", "arrived", "number"),
        Index("entries_newest", "arrived", "number"),
        Index("entries_unread_newest", "read", "arrived", "number"),
        Index("entries_label_newest", "label", "arrived", "number"),
        # A search scans only these covering indexes, in order, and reads only matching rows.
        Index("entries_search_urgent", "priority", "arrived", "number", "read", "version", "sought"),
        Index("entries_search_newest", "arrived", "number", "priority", "read", "version", "sought"),
        Index("entries_key", "key", "bucket"),
        Index("entries_counted", "outcome", "task", "label", "read"),
    )


class ResultRow(Table):
    """A result record as received; `body` is its JSON.

    `capture` is 1 while its DICOM file has yet to be written; `capture_error` is why there will be none.
    """

    __tablename__ = "records"

    id: Mapped[str] = mapped_column(String(512), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    done: Mapped[datetime]
    body: Mapped[str]
    capture: Mapped[int] = mapped_column(default=0, index=True)
    capture_error: Mapped[str | None]


class ErasedRow(Table):
    """An upload that was erased (`worklist.database.erased`)."""

    __tablename__ = "erased"

    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]


class OpinionRow(Table):
    """A second opinion (`lungline.results.opinions`), as much of it as is compared and shown.

    `waited` are the milliseconds from the arrival of its event to its end, `worked` those of the work in it without the
    fetch.
    """

    __tablename__ = "opinions"

    purpose: Mapped[str] = mapped_column(String(16), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(128), primary_key=True)
    task: Mapped[str] = mapped_column(String(40))
    outcome: Mapped[str] = mapped_column(String(16))
    label: Mapped[str | None] = mapped_column(String(32))
    probability: Mapped[float | None] = mapped_column(Float)
    done: Mapped[datetime]
    waited: Mapped[float] = mapped_column(Float)
    worked: Mapped[float] = mapped_column(Float)

    __table_args__ = (Index("opinions_latest", "purpose", "version", "done"), Index("opinions_upload", "identity"))


class PatientRow(Table):
    """Whom an upload is of (`lungline.results.patients`).

    The columns `sought_...` are what searches compare.
    """

    __tablename__ = "patients"

    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    patient_id: Mapped[str]
    issuer: Mapped[str]
    name: Mapped[str]
    accession: Mapped[str]
    study_date: Mapped[str]
    study_uid: Mapped[str] = mapped_column(index=True)
    series_uid: Mapped[str]
    instance_uid: Mapped[str]
    sop_class: Mapped[str]
    modality: Mapped[str]
    view: Mapped[str]
    sought_patient_id: Mapped[str] = mapped_column(index=True)
    sought_accession: Mapped[str] = mapped_column(index=True)
    sought_name: Mapped[str]

    __table_args__ = (Index("patients_same", "patient_id", "issuer"),)


class ReadingRow(Table):
    """A reading of an upload, with the result that was on the screen.

    `action` is read, confirmed, corrected or reopened; `verdict` the label of a finding or Not usable; `findings` says
    of each positive one whether it is there, where the task has several. `saved` is 1 once the reading is in S3 as
    well, so a lost database loses no label.
    """

    __tablename__ = "readings"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    record: Mapped[str]
    version: Mapped[str]
    task: Mapped[str] = mapped_column(String(40), default=DEFAULT)
    label: Mapped[str | None] = mapped_column(String(32))
    probability: Mapped[float | None] = mapped_column(Float)
    action: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[str | None] = mapped_column(String(32))
    findings: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    comment: Mapped[str]
    reader: Mapped[str]
    at: Mapped[datetime]
    saved: Mapped[int] = mapped_column(default=0, index=True)


WorklistEntry.findings_read = column_property(
    select(ReadingRow.findings)
    .where(ReadingRow.identity == WorklistEntry.identity, ReadingRow.verdict.is_not(None))
    .order_by(ReadingRow.at.desc(), ReadingRow.number.desc())
    .limit(1)
    .correlate(WorklistEntry)
    .scalar_subquery()
)


class Outgoing:
    """What every row of an outbox has; see worklist.database.outbox."""

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[datetime]
    created: Mapped[datetime]
    sent: Mapped[datetime | None]
    error: Mapped[str | None]


class Notice(Outgoing, Table):
    """A notice about an upload: at most one row per upload, rule, step and target."""

    __tablename__ = "notices"

    rule: Mapped[str] = mapped_column(String(128))
    step: Mapped[int] = mapped_column(default=0)
    target: Mapped[int] = mapped_column(default=0)
    label: Mapped[str | None] = mapped_column(String(32))
    escalates: Mapped[datetime | None]
    acknowledged: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]

    __table_args__ = (
        UniqueConstraint("identity", "rule", "step", "target", name="notices_once"),
        Index("notices_due", "state", "due"),
    )


class Delivery(Outgoing, Table):
    """The delivery of a result to a destination: at most one row for both. Nothing in it describes a patient."""

    __tablename__ = "deliveries"

    record: Mapped[str] = mapped_column(String(512))
    destination: Mapped[str] = mapped_column(String(64))
    # Whose verdict the destination has had.
    reading: Mapped[str | None] = mapped_column(String(64))
    # 0 while the results bucket has yet to say that it was sent.
    kept: Mapped[int] = mapped_column(default=1, index=True)

    __table_args__ = (
        UniqueConstraint("record", "destination", name="deliveries_once"),
        Index("deliveries_due", "state", "destination", "due"),
    )


class Counter(Table):
    """Something that happened to an upload elsewhere, counted once however often it is reported."""

    __tablename__ = "signals"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str]
    at: Mapped[datetime]


class Audit(Table):
    """An entry of the audit log; `identity` is the upload's, never its key. `hash` chains it to the one before."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    act: Mapped[str] = mapped_column(String(32))
    identity: Mapped[str | None] = mapped_column(String(64), index=True)
    detail: Mapped[str]
    hash: Mapped[str | None] = mapped_column(String(64))


class Token(Table):
    """A single-use sign-in link."""

    __tablename__ = "tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    expires: Mapped[datetime]
    used: Mapped[datetime | None]
    patients: Mapped[int] = mapped_column(default=0)


class Session(Table):
    """A signed-in user."""

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    who: Mapped[str]
    role: Mapped[str] = mapped_column(String(16))
    csrf: Mapped[str] = mapped_column(String(64))
    expires: Mapped[datetime]
    patients: Mapped[int] = mapped_column(default=0)


class TaskRow(Table):
    """A task, as the latest result of it describes it; `body` is JSON (`lungline.task.terms`)."""

    __tablename__ = "tasks"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    done: Mapped[datetime]
    body: Mapped[str]


class Checkpoint(Table):
    """A named position, such as the last reading used for training."""

    __tablename__ = "marks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
