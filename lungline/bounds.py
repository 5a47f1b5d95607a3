"""The bounds of what comes from outside: times, numbers and names in events, records and Kafka messages.

Whoever reads such a value takes it through these functions, so that no value can be written that another part cannot
read: a time of the year 0001 has no place in a database, one of the year 9999 none in an object's key.
"""

from datetime import UTC, datetime, timedelta

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Before the first event of any system that this one reads."""
CLOCK_SKEW = timedelta(minutes=5)
"""By which another machine's clock may be ahead of this one."""
CLOCK_SET_BACK = timedelta(days=1)
"""By which this machine's own clock may have been set back since a record was written."""
MAX_OBJECT_BYTES = 2**50
"""More than any store holds in one object."""
MAX_UPLOADS = 500
"""In one event: their results fit into the one event that answers it, and are made before its sender gives up."""
MAX_RECORD_BYTES = 2**20
"""Of a result or reading in the store, as of an event."""


def latest() -> datetime:
    """The latest time that something from outside may have now."""
    return datetime.now(UTC) + CLOCK_SKEW


def moment(value: datetime | None, ahead: timedelta = CLOCK_SKEW) -> datetime | None:
    """A time in UTC; None for none, and for one before 2000 or in the future. Without a time zone it is UTC."""
    if value is None:
        return None
    try:
        utc = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return utc if EARLIEST <= utc <= datetime.now(UTC) + ahead else None


def recorded(value: datetime | None) -> datetime | None:
    """A time in a record of this system: as `moment`, but the clock may have been set back since it was written.

    A result is not less of a result then, and refused it would be a dead letter.
    """
    return moment(value, CLOCK_SET_BACK)


def moment_of(text: str | None) -> datetime | None:
    """The time that an ISO 8601 text states, within the same bounds."""
    try:
        return moment(datetime.fromisoformat(text)) if text else None
    except (ValueError, OverflowError):
        return None


def moment_at(milliseconds: float) -> datetime | None:
    """The time that Kafka states in milliseconds since 1970, within the same bounds."""
    try:
        return moment(datetime.fromtimestamp(milliseconds / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def is_byte_count(value: object) -> bool:
    """Whether a value is a number of bytes that an object may have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_OBJECT_BYTES
