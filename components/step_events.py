"""Events of a running pipeline: one line of JSON in a step's output for each.

Lines in the output, because a pod's log is all that a cluster offers: the terminal reads from a subprocess the same
lines that a log collector reads from a pod.
"""

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lungline.errors import LunglineError

MARK = "lungline-event "


class Event(BaseModel):
    """An event of a step of a pipeline run."""

    model_config = ConfigDict(frozen=True)

    step: str
    kind: Literal["started", "progress", "done", "failed", "reused"]
    text: str = Field(default="", description="One sentence for a person.")
    values: dict[str, Any] = Field(default_factory=dict, description="For programs.")
    ours: bool = Field(default=False, description="Whether the failure is a LunglineError: its text suffices.")
    seconds: float | None = Field(default=None, description="Duration of the step, once it is done or failed.")


class Step:
    """Reports the events of one step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._done: dict[str, Any] = {}
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the step started."""
        return time.monotonic() - self._started

    def progress(self, text: str, **values: Any) -> None:
        """Report progress."""
        _write(Event(step=self.name, kind="progress", text=text, values=values))

    def conclude(self, text: str, **values: Any) -> None:
        """Set the text and values of the event that ends the step."""
        self._done = {"text": text, "values": values}

    @property
    def done(self) -> dict[str, Any]:
        """Text and values set by `conclude`."""
        return self._done


@contextmanager
def step(name: str) -> Generator[Step]:
    """Report the start of a step, and its end or failure."""
    started = time.monotonic()
    _write(Event(step=name, kind="started"))
    current = Step(name)
    try:
        yield current
    except Exception as exc:
        seconds, ours = time.monotonic() - started, isinstance(exc, LunglineError)
        _write(Event(step=name, kind="failed", text=_sentence(exc), seconds=seconds, ours=ours))
        raise
    _write(Event(step=name, kind="done", seconds=time.monotonic() - started, **current.done))


def every(seconds: float, report: Callable[[str], None]) -> Callable[[int, int], None]:
    """A callback for (done, total) that reports at most once in so many seconds, and always at the end."""
    last = [time.monotonic()]

    def on_progress(done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last[0] >= seconds:
            last[0] = now
            report(f"{done} of {total}")

    return on_progress


def read(line: str) -> Event | None:
    """The event in a line of output; None for any other line."""
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        return Event.model_validate_json(text)
    except ValidationError:
        return None


def _write(event: Event) -> None:
    # A file name from disk may hold bytes that are no text.
    text = event.text.encode("utf-8", "backslashreplace").decode()
    line = MARK + json.dumps(event.model_copy(update={"text": text}).model_dump(exclude_defaults=True), default=float)
    # In one write: native libraries write to the same pipe, and must not get between the line and its end.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _sentence(exc: Exception) -> str:
    if isinstance(exc, LunglineError):
        return str(exc)
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
