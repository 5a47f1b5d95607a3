"""X-rays in, results out."""

import os
from dataclasses import asdict
from typing import Annotated

import typer

from cli import console, result_output
from cli.options import Home, Json, configured, connected, moment_of, show

app = typer.Typer()

Since = Annotated[
    str | None, typer.Option(metavar="MOMENT", help="Only what arrived since then, such as 2026-11-21T22:00.")
]


def _checked_prefix(prefix: str) -> str:
    """Refuse what S3 servers take for a path and resolve, and what no key may hold."""
    prefix = os.fsencode(prefix).decode("utf-8", "surrogateescape")  # whatever the locale is
    parts = prefix.split("/")
    if {".", ".."} & set(parts):
        raise typer.BadParameter(f"{prefix} has the part . or .., which means no folder in a bucket")
    if "" in parts[:-1] or not prefix.replace("/", "_").isprintable():
        raise typer.BadParameter(f"{prefix!r} cannot begin an object's key: expected one such as ward/7/")
    return prefix


@app.command()
def upload(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="X-ray images, or folders of them.")],
    prefix: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Put before each file's name to make its key.", callback=_checked_prefix),
    ] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Upload X-rays and show their results.

    It uploads as a scanner would and shows each result as it arrives. Exit code 1 when an image is refused or has no
    result. Files of the same name get the names of their folders in front.
    """
    from laptop.upload_files import select
    from laptop.uploads import upload_and_watch

    settings = configured(home)
    selection = select(files, prefix)
    for remark in selection.remarks:
        console.notice(remark)
    images = [(file.key, file.read) for file in selection.files]
    arrivals = upload_and_watch(
        images, settings, lambda arrival: None if as_json else result_output.result(arrival.record)
    )
    if as_json:
        console.dump([arrival.record.model_dump(mode="json") for arrival in arrivals])
    if any(arrival.record.outcome != "judged" for arrival in arrivals):
        raise typer.Exit(1)


@app.command("import")
def import_(  # noqa: PLR0917 - Typer passes them by name
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, a zip, a DICOMDIR, or s3://bucket/prefix.")
    ],
    rate: Annotated[float, typer.Option(metavar="NUMBER", help="Uploads a second at most.", min=0.01, max=1000)] = 5.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at every file, and upload nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results, and show their labels.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Look at files anew that were uploaded before.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Upload a folder, zip, DICOMDIR or S3 prefix.

    Each image becomes one upload, however often the command is called; after an interruption it goes on where it
    stopped. Credentials of an S3 source are those of boto3's environment. Exit code 1 when a file failed.
    """
    from laptop.batches.batch import Batch, import_batch, labels

    batch = Batch(source, rate, dry_run, again)
    settings = configured(home)
    rows = import_batch(settings, batch, console.counter)
    records = labels(settings, rows, console.counter) if wait and not dry_run else {}
    if as_json:
        console.dump(
            [asdict(row) | {"label": result_output.label_of(records.get(row.key)).plain or None} for row in rows]
        )
    else:
        result_output.batch(rows, records)
    if any(row.outcome == "failed" for row in rows):
        raise typer.Exit(1)


@app.command()
def results(
    last: Annotated[int, typer.Option(metavar="COUNT", help="How many, the latest first.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the results of the latest uploads."""
    from lungline.results.record_store import latest
    from lungline.storage.s3 import Storage

    settings = connected(home)
    records = latest(Storage.from_settings(settings), settings.results_bucket, last)
    show([record.model_dump(mode="json") for record in records], as_json, lambda: result_output.results(records))


@app.command()
def reconcile(
    since: Since = None,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="Leave out uploads younger than this.", min=0, max=10**9)
    ] = 30.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Send the events of uploads without a result again.

    It is harmless at any time.
    """
    from eventing.reconcile import resend

    settings = connected(home)
    report = resend(settings, since=moment_of(since) if since is not None else None, grace_seconds=grace)
    show(asdict(report), as_json, lambda: console.say(str(report)))


@app.command()
def replay(
    since: Since = None,
    again: Annotated[bool, typer.Option("--again", help="Include dead letters that were replayed before.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Deliver dead letters again, once each.

    Use it after the cause of their failure was removed.
    """
    from eventing import replay as replaying

    report = replaying.replay(connected(home), since=moment_of(since) if since is not None else None, again=again)
    show(asdict(report), as_json, lambda: console.say(str(report)))
