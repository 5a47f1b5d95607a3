"""What the command line shows: plain lines that read the same at a terminal and in a log.

Progress goes to standard error, results to standard output, so that `--json` and pipes stay clean.
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

DISCLAIMER = "Research use only. Not a medical device: no result here replaces a radiologist."
COLOURS = {
    "Unsure": "yellow",
    "Refused": "magenta",
    "ready": "green",
    "passed": "green",
    "failed": "bold red",
    "stopped": "red",
    "starting": "yellow",
}

if TYPE_CHECKING:
    from components.step_events import Event

progress = Console(stderr=True, highlight=False, soft_wrap=True)
# A pipe has no width; 80 columns would fold what a script or a log shows.
output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def accept_any_text() -> None:
    """Let standard output and error escape what their encoding lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def step(name: str, text: str, style: str = "") -> None:
    """Show one line of progress: a step and what it did."""
    progress.print(Text.assemble((f"{name:>14}  ", "bold cyan"), (text, style)))


def heading(text: str) -> None:
    """Show the line that opens a stage of a longer command."""
    progress.print()
    progress.print(Text(text, style="bold"))


def notice(text: str) -> None:
    """Show something a person must not miss."""
    progress.print(Text(text, style="bold yellow"))


def error(text: str) -> None:
    """Show the one sentence of a failure."""
    progress.print(Text.assemble(("Error: ", "bold red"), text))


def say(text: str, style: str = "") -> None:
    """Print one line of the result."""
    output.print(Text(text, style=style))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; states are coloured, and so are cells that bring their style."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(_cell, row))
    output.print(shown)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    word = "" if value is None else str(value)
    return Text(word, style=colour_of(word))


def colour_of(word: str) -> str:
    """The style of a state, an outcome, or a label that every task has."""
    return COLOURS.get(word, "")


def dump(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON value on one line; letters that the terminal's encoding lacks become JSON escapes."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    print(text if _is_printable(text) else json.dumps(value, default=str))  # Rich would fold a long line


def bar(risk: float, width: int = 20) -> str:
    """Draw a risk between 0 and 1 as a bar of `width` characters."""
    full, empty = "█░" if _is_printable("█░") else "#."
    filled = round(risk * width)
    return full * filled + empty * (width - filled)


def _is_printable(text: str) -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            text.encode(stream.encoding)
    except UnicodeEncodeError:
        return False
    return True


def raw(lines: Iterable[str]) -> None:
    """Print lines for another program: no colour, no folding."""
    for line in lines:
        print(line)


def service_changed(name: str, state: str) -> None:
    """Show a service's new state; that it has not started yet is no news."""
    if state != "stopped":
        step(name, state, COLOURS.get(state, ""))


def counter(done: int, total: int | None = None) -> None:
    """Show how far a long command has come; at a terminal only."""
    if progress.is_terminal:
        progress.print(Text(f"{done:>14}" + (f" of {total}" if total else ""), style="dim"), end="\r")


def pipeline_event(event: "Event") -> None:
    """Show that a pipeline step has started, moved on or ended; counters stay on one line, at a terminal only."""
    if re.fullmatch(r"\d+ of \d+", event.text) and event.kind == "progress":
        if progress.is_terminal:
            progress.print(Text(f"{event.step.replace('_', ' '):>14}  {event.text}", style="dim"), end="\r")
        return
    took = f"  {event.seconds:.1f} s" if event.seconds is not None else ""
    text = {"started": "started", "reused": f"reused: {event.text}"}.get(event.kind, event.text)
    style = {"started": "dim", "failed": "bold red", "reused": "dim", "progress": "dim"}.get(event.kind, "")
    step(event.step.replace("_", " "), f"{text}{took}", style)
