"""X-rays in, results out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.options import Home, Json, configured, connected, moment_of, show

app = typer.Typer()

Since = Annotated[str | None, typer.Option(help="Only what came since this moment, such as 2026-11-21T22:00.")]


def _checked_prefix(prefix: str) -> str:
    if {".", ".."} & set(prefix.split("/")):
        raise typer.BadParameter(f"{prefix} has the part . or .., which means no folder in a bucket")
    return prefix


@app.command()
def upload(
    files: Annotated[list[Path], typer.Argument(help="X-ray images.", exists=True, dir_okay=False)],
    prefix: Annotated[
        str, typer.Option(help="Put before each file's name to make its key.", callback=_checked_prefix)
    ] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Upload X-rays as a scanner would, and show each result as it arrives."""
    from laptop.uploads import upload_and_watch

    pictures = [(prefix + file.name, file.read_bytes) for file in files]
    settings = configured(home)
    arrivals = upload_and_watch(pictures, settings, lambda arrival: None if as_json else console.result(arrival.record))
    if as_json:
        console.dump([arrival.record.model_dump(mode="json") for arrival in arrivals])


@app.command()
def results(
    last: Annotated[int, typer.Option(help="How many, the latest first.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the results of the latest uploads."""
    from lungline.results.records import latest
    from lungline.storage.s3 import Storage

    settings = connected(home)
    found = latest(Storage.from_settings(settings), settings.results_bucket, last)
    show([record.model_dump(mode="json") for record in found], as_json, lambda: console.results(found))


@app.command()
def reconcile(
    since: Since = None,
    grace: Annotated[float, typer.Option(help="Seconds that an upload may be on its way.", min=0)] = 30.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find uploads without a result and send their events again; harmless at any time."""
    from eventing.reconcile import resend

    settings = connected(home)
    found = resend(settings, since=moment_of(since) if since else None, grace_seconds=grace)
    show(asdict(found), as_json, lambda: console.say(str(found)))


@app.command()
def replay(
    since: Since = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed before.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Deliver dead letters again, once each, after what kept them from being taken was mended."""
    from eventing import replay as recovery

    found = recovery.replay(connected(home), since=moment_of(since) if since else None, again=again)
    show(asdict(found), as_json, lambda: console.say(str(found)))
