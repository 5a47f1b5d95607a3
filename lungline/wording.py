"""Numbers and time spans in words, wherever a person reads them."""

from datetime import timedelta


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 upload`, `2 uploads`; `plural` is needed where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def ago(span: timedelta) -> str:
    """How long ago something was: `3 d`, `2 h`, `5 min` or `40 s`, rounded down."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
