"""How the command line shows results of X-rays: label, risk and, where there is none, the reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from cli import console

if TYPE_CHECKING:
    from laptop.batches.importing import Row
    from lungline.results.records import ResultRecord

_URGENT = {"urgent": "bold red", "soon": "yellow", "routine": "green"}


def label_of(record: "ResultRecord | None") -> Text:
    """The label of a result, or its outcome where there is none; a finding has the style of its urgency in its task."""
    if record is None:
        return Text()
    finding = record.task_terms.labelled(record.label)
    word = record.label or record.outcome
    return Text(word, style=_URGENT[finding.urgency] if finding else console.colour_of(word))


def result(record: "ResultRecord") -> None:
    """Print one saved result: the label and the risk, or the reason why there is none; below it what it warns of."""
    from lungline.events.uploads import readable_key

    risk = f"{console.bar(record.probability)} {record.probability:6.1%}" if record.probability is not None else ""
    label = label_of(record)
    console.say(
        f"{label.plain:>10}  {risk or record.message or record.reason}  {readable_key(record.upload.key)}",
        str(label.style),
    )
    for warning in record.warnings:
        console.say(f"{'':>10}  {warning}", "dim")


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
    console.table(("done (UTC)", "label", "risk", "version", "key", "remark"), rows)
    console.say(console.DISCLAIMER, "dim")


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
        console.table(("outcome", "label", "risk", "file", "remark"), shown)
    for outcome, number in Counter(row.outcome for row in rows).items():
        console.say(f"{number:>6}  {outcome}", console.colour_of(outcome))
    if records:
        console.say(console.DISCLAIMER, "dim")


def arrival(record: "ResultRecord", truth: str, right: bool, milliseconds: float) -> None:
    """Show a result of the demo when it arrives."""
    label, risk = label_of(record), record.probability
    shown = f"{console.bar(risk)} {risk:6.1%}" if risk is not None else " " * 27
    line = Text.assemble(
        (f"{label.plain:>14}  ", label.style),
        f"{shown}  truth {truth:9}  ",
        ("right" if right else "wrong", "green" if right else "bold red"),
        (f"  {milliseconds:6.0f} ms", "dim"),
    )
    console.progress.print(line)
