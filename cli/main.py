"""The command line: the commands joined, and how a refusal is told.

A command reads settings, calls one function of the project, and shows what came back. Every import of another package,
and of anything slow, stands inside the command that needs it: `lungline --help` must answer at once.
"""

import os
import sys

import typer

from cli import bench, console, monitoring, registry, stack, training, uploads, worklist
from lungline.errors import LunglineError
from lungline.network import shield_environment

app = typer.Typer(
    name="lungline",
    help=f"Train, register and serve a pneumonia classifier for chest X-rays.\n\n{console.DISCLAIMER}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for module in (stack, uploads, training, bench, registry, worklist, monitoring):
    app.add_typer(module.app)


def main() -> None:
    """Run the command line; a refusal is one sentence on standard error and exit code 1."""
    shield_environment(mlflow_uri=os.environ.get("LUNGLINE_MLFLOW_URI"))
    try:
        app()
    except LunglineError as exc:
        console.error(str(exc))
        sys.exit(1)
