"""The worklist, the readings on it, and exports."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.options import Home, Json, connected, path_of, show, writing

app = typer.Typer()
worklist = typer.Typer(help="The web page for readers.", no_args_is_help=True)
feedback = typer.Typer(help="The labels of readers.", no_args_is_help=True)
app.add_typer(worklist, name="worklist")
app.add_typer(feedback, name="feedback")


class Format(StrEnum):
    """Formats of an export."""

    csv = "csv"
    fhir = "fhir"


@worklist.command("link")
def worklist_link(home: Home = None, as_json: Json = False) -> None:
    """Print a link that signs one reader in to the worklist.

    The previous link stops working.
    """
    from worklist.commands import login_url

    url = login_url(connected(home))
    show({"url": url}, as_json, lambda: console.raw([url]))


@worklist.command("rebuild")
def worklist_rebuild(
    store: Annotated[
        bool, typer.Option("--store", help="Instead, store results and readings that the bucket has lost.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Rebuild the worklist's database from the results bucket."""
    from lungline.wording import count
    from worklist.commands import rebuild_worklist, store_results

    if store:
        stored = store_results(connected(home))
        show({"stored": stored}, as_json, lambda: console.say(f"Stored {count(stored, 'result')}."))
        return
    done = rebuild_worklist(connected(home), console.counter)
    read = f"Read {count(done.records, 'result')} and {count(done.readings, 'reading')}"
    sent = f" {count(done.delivered, 'delivery', 'deliveries')} made before, {done.due} due."
    text = f"{read}; {done.added} new, {done.odd} unreadable.{sent if done.delivered or done.due else ''}"
    show(asdict(done), as_json, lambda: console.say(text))


@worklist.command("audit")
def worklist_audit(
    fhir: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_of, help="Instead, write the log as FHIR R4 AuditEvents, one a line."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check that no entry of the audit log was changed or removed.

    Compares each entry with the one before it, and the log with what the results bucket holds of it.
    """
    from lungline.wording import count
    from worklist.commands import export_audit, verify_audit

    if fhir is not None:
        with writing(fhir):
            number = export_audit(connected(home), fhir)
        sentence = f"Wrote {count(number, 'entry', 'entries')} to {fhir}."
        show({"entries": number, "file": str(fhir)}, as_json, lambda: console.say(sentence))
        return
    done = verify_audit(connected(home))
    text = f"{count(done.entries, 'entry', 'entries')}, {count(done.anchors, 'anchor')} in the store: "
    sentences = list(done.problems) or [f"{text}the audit log is unbroken."]
    show(asdict(done), as_json, lambda: console.raw(sentences))
    if done.problems:
        raise typer.Exit(1)


@worklist.command("deliveries")
def worklist_deliveries(home: Home = None, as_json: Json = False) -> None:
    """Show what was delivered to other systems, and what was not and why."""
    from worklist.commands import outgoing

    done = outgoing(connected(home))

    def show_text() -> None:
        if not done.counts:
            console.say("Nothing was to be delivered yet; LUNGLINE_WORKLIST__DESTINATIONS names the destinations.")
            return
        rows = [(each["destination"], each["state"], each["number"]) for each in done.counts]
        console.table(("destination", "state", "results"), rows)
        for each in done.troubled:
            console.say(f"{each['destination']}, upload {each['identity'][:12]}, {each['state']}: {each['error']}")

    show(asdict(done), as_json, show_text)


@worklist.command("deliver")
def worklist_deliver(
    destination: Annotated[
        str | None, typer.Argument(metavar="DESTINATION", help="One destination; all by default.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Include what counts as failed.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Deliver what waits for other systems now.

    Use it after the cause of a failure was removed.
    """
    from lungline.wording import count
    from worklist.commands import deliver

    number = deliver(connected(home), destination, again=again)
    verb = "is" if number == 1 else "are"
    text = f"{count(number, 'delivery', 'deliveries')} {verb} due; the running worklist makes them."
    show({"due": number}, as_json, lambda: console.say(text))


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", parser=path_of, help="The file to write.")],
    form: Annotated[
        Format, typer.Option("--format", help="CSV, or FHIR R4 DiagnosticReports, one a line.")
    ] = Format.csv,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write all results of the worklist to a file."""
    from lungline.wording import count
    from worklist.commands import export_results

    settings = connected(home)
    with writing(output):
        number = export_results(settings, form.value, output)
    text = f"Wrote {count(number, 'result')} to {output}."
    show({"results": number, "file": str(output)}, as_json, lambda: console.say(text))


@feedback.command("export")
def feedback_export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", parser=path_of, help="A new folder.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the labels of readers as a data set.

    `lungline train --feedback FOLDER` adds them to the training data.
    """
    from lungline.wording import count
    from worklist.commands import export_feedback

    settings = connected(home)
    with writing(folder):
        done = export_feedback(settings, folder, console.counter)
    gone = f"; {done.gone} more are not in the bucket any longer" if done.gone else ""
    show(asdict(done), as_json, lambda: console.say(f"Wrote {count(done.images, 'X-ray')} to {folder}{gone}."))
