"""The command line: joins the commands, and reports errors.

A command reads settings, calls one function of the project and shows its result. Imports of other packages, and of
anything slow, stand inside the commands: `lungline --help` must answer at once.
"""

import os
import sys
from typing import Annotated

import typer

from cli import (
    bench,
    console,
    dossiers,
    gateway,
    monitoring,
    registry,
    retention,
    second_opinions,
    site,
    stack,
    task,
    training,
    uploads,
    worklist,
)
from lungline.errors import LunglineError
from lungline.network import shield_environment

app = typer.Typer(
    name="lungline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels take square brackets in a help text for markup
)
for module in (
    stack,
    uploads,
    task,
    training,
    bench,
    registry,
    second_opinions,
    dossiers,
    worklist,
    retention,
    gateway,
    monitoring,
    site,
):
    app.add_typer(module.app)


def _show_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        console.raw([f"lungline {version('lungline')}"])
        raise typer.Exit


@app.callback(
    help=f"Train, register and serve classifiers for chest X-rays; pneumonia comes along.\n\n{console.DISCLAIMER}",
)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; an error is one sentence on standard error and exit code 1."""
    console.accept_any_text()
    shield_environment(mlflow_uri=os.environ.get("LUNGLINE_MLFLOW_URI"))
    try:
        app()
    except LunglineError as exc:
        console.error(str(exc))
        sys.exit(1)
