"""Formatting of values for the pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lungline.events.uploads import readable_key
from lungline.results.patients import readable as readable_name
from lungline.wording import ago
from worklist.database.models import WorklistEntry, microseconds


def percent(value: float | None) -> str:
    """A probability in percent, never 0 or 100: no model is certain."""
    if value is None:
        return ""
    if value < 0.01:
        return "<1%"
    return ">99%" if value > 0.99 else f"{value:.0%}"


def share(value: float) -> str:
    """A measured share in percent."""
    return f"{value:.0%}"


def age(moment: datetime) -> str:
    """The time since a moment."""
    return ago(datetime.now(UTC) - moment)


def name(key: str) -> str:
    """The last part of an object's key, readable."""
    return readable_key(key.rstrip("/").rpartition("/")[2] or key)


def folder(key: str) -> str:
    """An object's key without its last part, readable."""
    return readable_key("".join(key.rstrip("/").rpartition("/")[:2]))


def number(value: int) -> str:
    """A count with thin spaces as thousands separators."""
    return f"{value:,}".replace(",", "\u202f")


def version_in(version: str, task: str) -> str:
    """A model version beside the name of its task, which that of another task than the default begins with."""
    return version.removeprefix(f"{task}.")


def iso(moment: datetime) -> str:
    """A moment in ISO 8601, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def clock(moment: datetime) -> str:
    """A moment in UTC, for pages without scripts."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def sentence(text: str) -> str:
    """A remark as a sentence, with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


FILTERS = {
    "micros": microseconds,
    "sentence": sentence,
    "percent": percent,
    "share": share,
    "age": age,
    "keyname": name,
    "folder": folder,
    "readable": readable_key,
    "person_name": readable_name,
    "number": number,
    "version_in": version_in,
    "iso": iso,
    "clock": clock,
}

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 26.0, 6.0, 6.0, 18.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One upload on the chart."""

    x: float
    y: float
    task: str
    label: str
    identity: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Dots, the thresholds of the newest model, and the labels of the time axis.

    Of results of several tasks there are no thresholds: each has its own.
    """

    dots: tuple[Dot, ...]
    low: float | None
    high: float | None
    begin: str
    end: str

    @staticmethod
    def y(risk: float) -> float:
        """The position of a risk, in the chart's units."""
        return round(TOP + (1 - risk) * (HEIGHT - TOP - BOTTOM), 1)


def timeline(entries: Sequence[WorklistEntry], now: datetime | None = None) -> Timeline | None:
    """The chart of uploads with a probability, the newest first; None when there are none."""
    predicted = [entry for entry in entries if entry.probability is not None]
    if not predicted:
        return None
    now = max(now or datetime.now(UTC), predicted[0].arrived)
    span = max(now - predicted[-1].arrived, timedelta(minutes=1))
    room = WIDTH - LEFT - RIGHT - 6
    dots = tuple(
        Dot(
            x=round(LEFT + 3 + room * (1 - (now - entry.arrived) / span), 1),
            y=Timeline.y(entry.probability or 0.0),
            task=entry.task,
            label=entry.label or "",
            identity=entry.identity,
            sentence=f"{entry.label}, {entry.probability or 0:.0%}, {entry.arrived:%d %b %H:%M} UTC",
        )
        for entry in reversed(predicted)
    )
    newest = predicted[0]
    points = (newest.low, newest.high) if len({entry.task for entry in predicted}) == 1 else ()
    low, high = [Timeline.y(point) for point in points] or (None, None)
    return Timeline(dots, low, high, f"{ago(span)} ago", "now")
