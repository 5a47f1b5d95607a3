"""Measure how fast serving is."""

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
        str | None,
        typer.Option(metavar="MODEL", help="champion, a version, or a package's folder [default: an untrained model]."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Take two minutes; the numbers are rough.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure serving beside its peers.

    Compares the predictor with FastAPI and Keras, with KServe and a SavedModel, and with decoding and inference alone,
    and says which goals are met. It takes about six minutes on an otherwise idle machine and starts all servers itself.
    """
    try:
        from benchmarks import summary
    except ModuleNotFoundError as exc:
        raise StackError("The benchmarks are not in the wheel: run `make bench` in a checkout.") from exc
    with ExitStack() as stack:
        package = None
        if model is not None:
            settings = configured(home) if Path(model).is_dir() else connected(home)
            package = stack.enter_context(package_of(model, settings)).folder
        effort = summary.QUICK if quick else summary.Effort()
        measured = summary.measure(package, effort, lambda line: console.progress.print(line, markup=False))
    show(measured, as_json, lambda: _tables(measured, summary.rows(measured), summary.contestants(measured)))


def _tables(measured: dict[str, Any], goals: list[Any], contestants: list[Any]) -> None:
    machine = measured["machine"]
    console.say(
        f"{machine['cores']} cores of {machine['processor']}, load {machine['load_average']:.1f} at the start; "
        f"model: {measured['model']}; {measured['seconds']} s in all."
    )
    console.table(
        ("network", "contestant", "images/s", "per CPU second", "cores used", "p50 ms", "p99 ms", "settings"),
        contestants,
    )
    console.say("")
    console.table(("metric", "goal", "measured", "met"), goals)
    for benchmark, sentence in measured["errors"].items():
        console.notice(f"{benchmark} failed: {sentence}")
