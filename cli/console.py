"""What the command line shows: plain lines that read the same at a terminal and in a log.

Progress goes to standard error, results to standard output, so that `--json` and pipes stay clean.
"""

import io
import json
import re
import sys
from collections import Counter
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
_URGENT = {"urgent": "bold red", "soon": "yellow", "routine": "green"}

if TYPE_CHECKING:
    from components.step_events import Event
    from laptop.batches.importing import Row
    from laptop.supervision.status import ServiceStatus
    from lungline.evaluation.gate import GateVerdict
    from lungline.evaluation.metrics import Evaluation
    from lungline.health_check import Check
    from lungline.registry.history import Facts, PromotionEntry
    from lungline.registry.versions import Version
    from lungline.results.records import ResultRecord
    from lungline.retention.proof import Proof

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


def label_of(record: "ResultRecord | None") -> Text:
    """The label of a result, or its outcome where there is none; a finding has the style of its urgency in its task."""
    if record is None:
        return Text()
    finding = record.task_terms.labelled(record.label)
    word = record.label or record.outcome
    return Text(word, style=_URGENT[finding.urgency] if finding else colour_of(word))


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


def stack(services: "Iterable[ServiceStatus]", health: "Iterable[Check]" = ()) -> None:
    """Print the services of the stack, one a line, and the checks of their metrics."""
    rows = [(s.name, s.state, s.pid, s.address, s.restarts or "", s.remark) for s in services]
    table(("service", "state", "pid", "address", "restarts", "note"), rows)
    for check in health:
        text = check.finding if check.passed else f"{check.finding}. {check.cure}"
        say(f"{check.name:>14}  {text}", "" if check.passed else "red")


def checks(results: Iterable[Any]) -> None:
    """Print the checks of `lungline doctor`."""
    rows = [("passed" if c.passed else "failed", c.name, c.finding, c.cure if not c.passed else "") for c in results]
    table(("", "check", "finding", "cure"), rows)


def result(record: "ResultRecord") -> None:
    """Print one saved result: the label and the risk, or the reason why there is none."""
    from lungline.events.uploads import readable_key

    risk = f"{bar(record.probability)} {record.probability:6.1%}" if record.probability is not None else ""
    label = label_of(record)
    say(
        f"{label.plain:>10}  {risk or record.message or record.reason}  {readable_key(record.upload.key)}",
        str(label.style),
    )


def results(records: "Sequence[ResultRecord]") -> None:
    """Print saved results."""
    from lungline.events.uploads import readable_key

    rows = [
        (
            f"{r.times.done:%Y-%m-%d %H:%M:%S}",
            label_of(r),
            f"{r.probability:.1%}" if r.probability is not None else "",
            r.model.version,
            readable_key(r.upload.key),
            r.message or "; ".join(r.warnings),
        )
        for r in records
    ]
    table(("done (UTC)", "label", "risk", "version", "key", "remark"), rows)
    say(DISCLAIMER, "dim")


def planned_erasure(uploads: int, before: Mapping[str, int]) -> None:
    """Print what an erasure would erase."""
    say(f"Would be erased of {uploads} {'upload' if uploads == 1 else 'uploads'}:")
    table(("number", "what"), [(number, name) for name, number in sorted(before.items())])


def erasure(proof: "Proof", heading: str) -> None:
    """Print the proof of an erasure."""
    number = len(proof.uploads)
    say(f"{heading} {number} {'upload' if number == 1 else 'uploads'}, proof {proof.id}, by {proof.by}: {proof.reason}")
    rows = [(count, proof.after.get(name, "?"), name) for name, count in sorted(proof.before.items())]
    table(("before", "after", "what"), rows)
    for rest in proof.remains:
        until = f" until {rest.until:%Y-%m-%d}" if rest.until else ""
        say(f"Not reached: {rest.where}{until}. {rest.why}", "dim")


def counter(done: int, total: int | None = None) -> None:
    """Show how far a long command has come; at a terminal only."""
    if progress.is_terminal:
        progress.print(Text(f"{done:>14}" + (f" of {total}" if total else ""), style="dim"), end="\r")


def batch(rows: "Sequence[Row]", records: "Mapping[str, ResultRecord]") -> None:
    """Print what became of the files of a batch: those with a label or without an upload, then how many of each."""
    shown = [
        (
            row.outcome,
            label_of(record),
            f"{record.probability:.1%}" if record and record.probability is not None else "",
            row.name,
            row.reason or (record.message if record and not record.label else ""),
        )
        for row in rows
        if (record := records.get(row.key)) or row.reason
    ]
    if shown:
        table(("outcome", "label", "risk", "file", "remark"), shown)
    for outcome, number in Counter(row.outcome for row in rows).items():
        say(f"{number:>6}  {outcome}", colour_of(outcome))
    if records:
        say(DISCLAIMER, "dim")


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


def training(evaluation: "Evaluation", verdict: "GateVerdict", outcome: str, links: Mapping[str, str]) -> None:
    """Print the result of a training run."""
    metrics(evaluation)
    rules(verdict)
    say(outcome, "bold")
    for name, address in links.items():
        say(f"{name:8} {address}")


def rules(verdict: "GateVerdict") -> None:
    """Print the gate's rules with their outcome, one a line."""
    for rule in verdict.rules:
        word = "passed" if rule.passed else "failed"
        say(f"  {word}  {rule.sentence}", COLOURS[word])


def evaluation(facts: Mapping[str, str], evaluation: "Evaluation") -> None:
    """Print the metrics of a model on a data set."""
    say(f"Model {facts['model']} on the {facts['split']} split of {facts['data']}", "bold")
    metrics(evaluation)
    say(DISCLAIMER, "dim")


def metrics(evaluation: "Evaluation") -> None:
    """Print the metrics with their intervals, and the labels of each class."""
    from lungline.wording import count

    refused = f", {evaluation.refused} refused" if evaluation.refused else ""
    say(f"{count(evaluation.n, 'X-ray')} predicted{refused}")
    rows: list[tuple[str, str, str]] = []
    for name, value in evaluation.metrics().items():
        interval = evaluation.intervals.get(name)
        rows.append((name, f"{value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""))
    table(("metric", "value", "95 % interval"), rows)
    labels = tuple(next(iter(evaluation.per_class.values())))
    table(
        ("truth", *labels), [(truth, *(row[label] for label in labels)) for truth, row in evaluation.per_class.items()]
    )


def versions(versions: "Sequence[Version]") -> None:
    """Print the registered versions."""
    if not versions:
        say("No version is registered yet; `lungline train` registers one.")
        return
    rows = [
        (
            v.version,
            ", ".join(v.aliases),
            f"{v.registered:%Y-%m-%d %H:%M}",
            v.tags.get("data", ""),
            _site(v.tags.get("site"), v.tags.get("parent")),
            v.package,
        )
        for v in versions
    ]
    table(("version", "alias", "registered (UTC)", "data", "site", "package"), rows)


def _site(name: str | None, parent: str | None) -> str:
    """The site that a version was fitted to, and the version whose network it has."""
    return f"{name} (from version {parent})" if name else ""


def history(entries: "Sequence[PromotionEntry]") -> None:
    """Print the history of promotions."""
    rows = [
        (
            e.number,
            f"{e.at:%Y-%m-%d %H:%M:%S}",
            e.kind,
            e.act,
            e.version,
            _site(e.facts.site, e.facts.parent),
            e.by,
            e.reason,
            f"{e.facts.metrics['auc']:.3f}" if "auc" in e.facts.metrics else "",
            _gate(e.facts),
        )
        for e in entries
    ]
    table(("#", "at (UTC)", "change", "act", "version", "site", "by", "reason", "auc", "gate"), rows)


def _gate(facts: "Facts") -> str:
    """How a version came past the gate, in a few words."""
    lowered = f"lowered: {', '.join(facts.gate.lowered)}" if facts.gate and facts.gate.lowered else ""
    if facts.without_gate:
        return "; ".join(filter(None, (f"without: {facts.without_gate}", lowered)))
    return lowered or ("passed" if facts.gate and facts.gate.passed else "")


def arrival(record: "ResultRecord", truth: str, right: bool, milliseconds: float) -> None:
    """Show a result of the demo when it arrives."""
    label, risk = label_of(record), record.probability
    shown = f"{bar(risk)} {risk:6.1%}" if risk is not None else " " * 27
    line = Text.assemble(
        (f"{label.plain:>14}  ", label.style),
        f"{shown}  truth {truth:9}  ",
        ("right" if right else "wrong", "green" if right else "bold red"),
        (f"  {milliseconds:6.0f} ms", "dim"),
    )
    progress.print(line)


def demo(report: Mapping[str, Any]) -> None:
    """Print the report of the demo."""
    latency, seconds = report["latency_ms"], report["seconds"]
    say("")
    say(f"Version {report['version']} of the model, trained on {report['data']}, test AUC {report['auc']:.3f}.", "bold")
    say(
        f"{report['results']} of {report['uploads']} uploads have a result; {report['correct']} are on the right side "
        f"of the operating point, {report['unsure']} are in the Unsure band."
    )
    say(f"From upload to saved result: median {latency['p50']:.0f} ms, 99th percentile {latency['p99']:.0f} ms.")
    say(f"Stack {seconds['setup']:.0f} s, training {seconds['train']:.0f} s, everything {seconds['total']:.0f} s.")
    for name, address in report["addresses"].items():
        say(f"{name:18} {address}")
    say(DISCLAIMER, "dim")
