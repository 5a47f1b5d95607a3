"""The worklist, what readers said, and what leaves for other systems."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import Home, Json, connected, show

if TYPE_CHECKING:
    pass

app = typer.Typer()
worklist = typer.Typer(help="The page that readers keep open.", no_args_is_help=True)
feedback = typer.Typer(help="What readers confirmed and corrected.", no_args_is_help=True)
app.add_typer(worklist, name="worklist")
app.add_typer(feedback, name="feedback")


class Form(StrEnum):
    """Forms of an export."""

    csv = "csv"
    fhir = "fhir"


@worklist.command("link")
def worklist_link(home: Home = None, as_json: Json = False) -> None:
    """Print a link that signs its first reader in to the worklist; the link before it stops working."""
    from worklist.commands import login_url

    url = login_url(connected(home))
    show({"url": url}, as_json, lambda: console.raw([url]))


@worklist.command("rebuild")
def worklist_rebuild(home: Home = None, as_json: Json = False) -> None:
    """Take all results and readings into the worklist again from the bucket, which is the truth."""
    from worklist.commands import rebuild_worklist

    done = rebuild_worklist(connected(home), console.counter)
    text = f"Read {done.records} results and {done.readings} readings; {done.added} were new, {done.odd} unreadable."
    show(asdict(done), as_json, lambda: console.say(text))


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    form: Annotated[Form, typer.Option("--format", help="CSV, or FHIR R4 DiagnosticReports one a line.")] = Form.csv,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write all results of the worklist to a file."""
    from worklist.commands import export_results

    count = export_results(connected(home), form.value, output)
    show({"results": count, "file": str(output)}, as_json, lambda: console.say(f"Wrote {count} results to {output}."))


@feedback.command("export")
def feedback_export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")], home: Home = None, as_json: Json = False
) -> None:
    """Write what readers confirmed and corrected as a data set, usable with --data."""
    from worklist.commands import export_feedback

    done = export_feedback(connected(home), folder, console.counter)
    gone = f"; {done.gone} are not in the bucket any more" if done.gone else ""
    show(asdict(done), as_json, lambda: console.say(f"Wrote {done.images} X-rays to {folder}{gone}."))
