"""What a running pipeline tells: one line of JSON in a step's output for each thing that happens.

A line is all that crosses from a step to whoever watches, because a pod's log is all that a cluster gives: the terminal
reads the same lines from a subprocess that a log collector reads from a pod.
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
    """One thing that happened in a step of a pipeline run."""

    model_config = ConfigDict(frozen=True)

    step: str
    kind: Literal["started", "progress", "done", "failed", "reused"]
    text: str = Field(default="", description="One sentence for a person.")
    figures: dict[str, Any] = Field(default_factory=dict)
    ours: bool = Field(default=False, description="Whether a failure is one that Lungline raises on purpose.")
    seconds: float | None = Field(default=None, description="Of the step, once it is done or failed.")


class Step:
    """Speaks for one step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._done: dict[str, Any] = {}
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the step has started."""
        return time.monotonic() - self._started

    def progress(self, text: str, **figures: Any) -> None:
        """Tell where the step stands."""
        _tell(Event(step=self.name, kind="progress", text=text, figures=figures))

    def conclude(self, text: str, **figures: Any) -> None:
        """Set what is told when the step is done."""
        self._done = {"text": text, "figures": figures}

    @property
    def done(self) -> dict[str, Any]:
        """What was set by `conclude`."""
        return self._done


@contextmanager
def step(name: str) -> Generator[Step]:
    """Tell that a step has started, and that it is done or why it failed."""
    started = time.monotonic()
    _tell(Event(step=name, kind="started"))
    speaker = Step(name)
    try:
        yield speaker
    except Exception as exc:
        seconds, ours = time.monotonic() - started, isinstance(exc, LunglineError)
        _tell(Event(step=name, kind="failed", text=_sentence(exc), seconds=seconds, ours=ours))
        raise
    _tell(Event(step=name, kind="done", seconds=time.monotonic() - started, **speaker.done))


def every(seconds: float, tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """A callback for (done, total) that tells at most once in so many seconds, and always at the end."""
    last = [time.monotonic()]

    def heard(done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last[0] >= seconds:
            last[0] = now
            tell(f"{done} of {total}")

    return heard


def read(line: str) -> Event | None:
    """The event in a line of output; None for any other line."""
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        return Event.model_validate_json(text)
    except ValidationError:
        return None


def _tell(event: Event) -> None:
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
