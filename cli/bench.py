"""How fast serving is."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import console
from cli.options import Home, Json, configured, connected, package_of, show
from lungline.errors import StackError

app = typer.Typer()


@app.command()
def bench(
    model: Annotated[
        str | None, typer.Option(help="champion, a version, or a package's folder; otherwise one is made, untrained.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A minute or two; its figures say little.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure serving beside FastAPI with Keras, KServe with a SavedModel and its floor, and say which goals are met.

    Takes about six minutes, wants the machine for itself, and needs no running stack: it starts its own.
    """
    try:
        from benchmarks import summary
    except ModuleNotFoundError as exc:
        raise StackError("The benchmarks are not in the wheel: run this in a checkout, with `make bench`.") from exc
    with ExitStack() as stack:
        package = None
        if model is not None:
            settings = configured(home) if Path(model).is_dir() else connected(home)
            package = stack.enter_context(package_of(model, settings)).folder
        effort = summary.QUICK if quick else summary.Effort()
        found = summary.measure(package, effort, lambda line: console.progress.print(line, markup=False))
    show(found, as_json, lambda: _tables(found, summary.rows(found), summary.contestants(found)))


def _tables(found: dict[str, Any], goals: list[Any], contestants: list[Any]) -> None:
    machine = found["machine"]
    console.say(
        f"{machine['cores']} cores of {machine['processor']}, load {machine['load_average']:.1f} at the start; "
        f"model: {found['model']}; {found['seconds']} s in all."
    )
    console.table(
        ("network", "contestant", "pictures/s", "per CPU second", "cores used", "p50 ms", "p99 ms", "settings"),
        contestants,
    )
    console.say("")
    console.table(("figure", "goal", "found", "met"), goals)
    for benchmark, sentence in found["errors"].items():
        console.notice(f"{benchmark} failed: {sentence}")
