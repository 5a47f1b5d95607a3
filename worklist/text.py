"""How values read on the page."""

from datetime import UTC, datetime

from worklist.chart import ago
from worklist.tables import microseconds


def percent(value: float | None) -> str:
    """A probability in percent; the ends stay open, for no model is certain."""
    if value is None:
        return ""
    if value < 0.01:
        return "<1%"
    return ">99%" if value > 0.99 else f"{value:.0%}"


def age(moment: datetime) -> str:
    """How long ago."""
    return ago(datetime.now(UTC) - moment)


def name(key: str) -> str:
    """The last part of an object's key."""
    return key.rstrip("/").rpartition("/")[2] or key


def folder(key: str) -> str:
    """What stands before the last part of an object's key."""
    return key[: len(key) - len(name(key))]


def number(value: int) -> str:
    """A count with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def iso(moment: datetime) -> str:
    """A moment for machines."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def clock(moment: datetime) -> str:
    """A moment for people, where no script turns it into their own time."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def sentence(text: str) -> str:
    """A remark as a sentence."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


FILTERS = {
    "micros": microseconds,
    "sentence": sentence,
    "percent": percent,
    "age": age,
    "keyname": name,
    "folder": folder,
    "number": number,
    "iso": iso,
    "clock": clock,
}
