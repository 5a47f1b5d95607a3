"""X-rays in, results out."""

import heapq
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungline import screen
from lungline.commands.options import (
    Home,
    Json,
    configured,
    connected,
    show,
)

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command()
def upload(
    files: Annotated[list[Path], typer.Argument(help="X-ray images.", exists=True, dir_okay=False)],
    prefix: Annotated[str, typer.Option(help="Put before each file's name to make its key.")] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Upload X-rays as a scanner would, and show each result as it arrives."""
    from laptop.uploads import upload_and_watch

    pictures = [(prefix + file.name, file.read_bytes) for file in files]
    settings = configured(home)
    arrivals = upload_and_watch(pictures, settings, lambda arrival: None if as_json else screen.result(arrival.record))
    if as_json:
        screen.dump([arrival.record.model_dump(mode="json") for arrival in arrivals])


@app.command()
def results(
    last: Annotated[int, typer.Option(help="How many, the latest first.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the latest saved results."""
    from lungline.results import every
    from lungline.storage import Storage

    settings = connected(home)
    records = every(Storage.from_settings(settings), settings.results_bucket)
    found = heapq.nlargest(last, records, key=lambda record: record.times.done)
    show([record.model_dump(mode="json") for record in found], as_json, lambda: screen.results(found))
