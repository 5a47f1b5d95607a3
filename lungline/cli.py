"""The command line: each command reads settings, calls one function of the project, and shows what came back.

Every import of another package, and of anything slow, stands inside the command that needs it: `lungline --help`
must answer at once.
"""

import heapq
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungline import screen
from lungline.errors import LunglineError, StackError

if TYPE_CHECKING:
    from lungline.package import Package
    from lungline.settings import Settings

app = typer.Typer(
    name="lungline",
    help=f"Train, register and serve a pneumonia classifier for chest X-rays.\n\n{screen.DISCLAIMER}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

worklist = typer.Typer(help="The page that readers keep open.", no_args_is_help=True)
feedback = typer.Typer(help="What readers confirmed and corrected.", no_args_is_help=True)
app.add_typer(worklist, name="worklist")
app.add_typer(feedback, name="feedback")


class Place(StrEnum):
    """Where a pipeline runs."""

    local = "local"
    kfp = "kfp"


class Form(StrEnum):
    """Forms of an export."""

    csv = "csv"
    fhir = "fhir"


Home = Annotated[Path | None, typer.Option(help="Folder of the laptop stack's state [default: .lungline].")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of a table.")]
Data = Annotated[
    str | None,
    typer.Option(help="A folder, a zip, an .npz, medmnist:SIZE, s3://bucket/prefix, phantom[:N], or auto."),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, such as train.epochs=10; repeatable.")]
By = Annotated[str, typer.Option(help="Who decides.")]
Reason = Annotated[str, typer.Option(help="Why.")]


def main() -> None:
    """Run the command line; a refusal is one sentence on standard error and exit code 1."""
    try:
        app()
    except LunglineError as exc:
        screen.error(str(exc))
        sys.exit(1)


def _settings(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Settings from the environment, the options that were given, and `--set`."""
    from lungline.settings import load_settings

    overrides = {name: value for name, value in {"home": home, **named}.items() if value is not None}
    for assignment in assignments or []:
        name, found, value = assignment.partition("=")
        if not found:
            raise typer.BadParameter(f"expected NAME=VALUE, such as train.epochs=10; found {assignment!r}")
        overrides[name.strip()] = value.strip()
    return load_settings(overrides)


def _connected(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Settings completed with the addresses and credentials of the running stack."""
    from laptop import stack

    return stack.connect(_settings(home, assignments, **named))


def _started(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Like `_connected`, with a stack started first where none runs."""
    from laptop import stack

    settings = _settings(home, assignments, **named)
    if not stack.status(settings).running:
        screen.heading("Starting the laptop stack; `lungline down` stops it.")
        stack.up(settings, screen.part_changed)
    return stack.connect(settings)


@contextmanager
def _package(model: str, settings: "Settings") -> "Generator[Package]":
    """The package that a person means: a folder, or a version of the registry."""
    from lungline.package import Package

    if Path(model).is_dir():
        yield Package.load(Path(model))
        return
    from lungline.registry import Registry

    registry = Registry(settings)
    with TemporaryDirectory(prefix="lungline-") as temporary:
        yield registry.fetch(registry.resolve(model), Path(temporary) / "package")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(f"expected a moment such as 2026-11-21T22:00; found {text!r}") from exc
    return moment if moment.tzinfo else moment.astimezone()


def _show(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        screen.dump(value)
    else:
        show()


@app.command()
def demo(
    data: Data = None,
    stay: Annotated[
        bool | None, typer.Option("--stay/--exit", help="Stay up until Ctrl-C, or end [default: stay at a terminal].")
    ] = None,
    assignments: Set = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the whole flow: start the stack, train, register, promote, upload X-rays, watch the results arrive."""
    from laptop import demo as show

    stays = sys.stdout.isatty() and not as_json if stay is None else stay
    # Four of the six epochs that training takes by default: who watches gets a little less model, a minute sooner.
    settings = _settings(home, ["train.epochs=4", *(assignments or [])], data=data)
    with show.stage(settings, screen.part_changed) as stage:
        report = show.perform(stage, screen)
        _show(report.value(), as_json, lambda: screen.demo(report.value()))
        if stays:
            screen.notice("Everything stays up until Ctrl-C.")
            show.rest()


@app.command()
def up(home: Home = None, as_json: Json = False) -> None:
    """Start the laptop stack in the background: store, broker, MLflow, bridge, trigger, predictor."""
    from laptop import stack

    settings = _settings(home)
    started = stack.up(settings, screen.part_changed)
    _show(asdict(started), as_json, lambda: screen.stack(started.parts))


@app.command()
def down(home: Home = None, as_json: Json = False) -> None:
    """Stop the laptop stack; what it stored stays."""
    from laptop import stack

    settings = _settings(home)
    stopped = stack.down(settings)
    text = "The stack is stopped." if stopped else f"No stack runs in {settings.home.absolute()}."
    _show({"stopped": stopped}, as_json, lambda: screen.say(text))


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show each part of the stack; exit code 1 when no stack runs."""
    from laptop import stack

    found = stack.status(_settings(home))
    _show(asdict(found), as_json, lambda: screen.stack(found.parts))
    if not found.running:
        screen.notice(f"No stack runs in {found.home}: `lungline up` starts one.")
        raise typer.Exit(1)


@app.command()
def env(
    scanner: Annotated[
        bool, typer.Option("--scanner", help="Credentials that may upload X-rays and nothing else.")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="List all settings instead, with their defaults.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print shell exports, so that any S3, Kafka or MLflow client uses the stack: eval "$(lungline env)"."""
    import shlex

    if settings:
        from lungline.settings import described, variable

        known = [(variable(name), default, text) for name, default, text in described()]
        _show(known, as_json, lambda: screen.table(("variable", "default", "meaning"), known))
        return

    from laptop import stack

    found = stack.env(_settings(home), scanner=scanner)
    _show(found, as_json, lambda: screen.raw(f"export {name}={shlex.quote(value)}" for name, value in found.items()))


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check what the stack needs and what runs of it; each fault comes with its cure, and exit code 1."""
    from laptop.doctor import examine

    found = examine(_settings(home))
    _show([asdict(check) for check in found], as_json, lambda: screen.checks(found))
    if not all(check.passed for check in found):
        raise typer.Exit(1)


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
    settings = _settings(home)
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

    settings = _connected(home)
    records = every(Storage.from_settings(settings), settings.results_bucket)
    found = heapq.nlargest(last, records, key=lambda record: record.times.done)
    _show([record.model_dump(mode="json") for record in found], as_json, lambda: screen.results(found))


@worklist.command("link")
def worklist_link(home: Home = None, as_json: Json = False) -> None:
    """Print a link that signs its first reader in to the worklist; the link before it stops working."""
    from laptop import stack
    from worklist.commands import login_url

    settings = _connected(home)
    address = stack.status(settings).part("worklist").address
    url = login_url(settings, *([address] if address else []))
    _show({"url": url}, as_json, lambda: screen.raw([url]))


@worklist.command("rebuild")
def worklist_rebuild(home: Home = None, as_json: Json = False) -> None:
    """Take all results and readings into the worklist again from the bucket, which is the truth."""
    from worklist.commands import rebuild_worklist

    done = rebuild_worklist(_connected(home), screen.counter)
    text = f"Read {done.records} results and {done.readings} readings; {done.added} were new, {done.odd} unreadable."
    _show(asdict(done), as_json, lambda: screen.say(text))


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    form: Annotated[Form, typer.Option("--format", help="CSV, or FHIR R4 DiagnosticReports one a line.")] = Form.csv,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write all results of the worklist to a file."""
    from worklist.commands import export_results

    count = export_results(_connected(home), form.value, output)
    _show({"results": count, "file": str(output)}, as_json, lambda: screen.say(f"Wrote {count} results to {output}."))


@feedback.command("export")
def feedback_export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")], home: Home = None, as_json: Json = False
) -> None:
    """Write what readers confirmed and corrected as a data set, usable with --data."""
    from worklist.commands import export_feedback

    done = export_feedback(_connected(home), folder, screen.counter)
    gone = f"; {done.gone} are not in the bucket any more" if done.gone else ""
    _show(asdict(done), as_json, lambda: screen.say(f"Wrote {done.images} X-rays to {folder}{gone}."))


@app.command()
def train(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    data: Data = None,
    assignments: Set = None,
    policy: Annotated[str | None, typer.Option(help="Who promotes: auto (the gate alone) or manual.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Reuse no step of an earlier run.")] = False,
    on: Annotated[Place, typer.Option(help="Run here, or on a Kubeflow Pipelines server.")] = Place.local,
    host: Annotated[str | None, typer.Option(help="Address of the Kubeflow Pipelines server.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Run the training pipeline: prepare, validate, train, evaluate, gate, register, promote."""
    if on is Place.kfp:
        _train_on_kfp(_settings(home, assignments, data=data, policy=policy), host, not fresh, as_json)
        return
    from pipelines.run import run_local

    settings = _started(home, assignments, data=data, policy=policy)
    summary = run_local(settings, screen.pipeline_event, reuse=not fresh)
    links = {"MLflow": summary.mlflow_url, "Report": summary.report}
    value = summary.model_dump(mode="json")
    _show(value, as_json, lambda: screen.training(summary.evaluation, summary.verdict, summary.next, links))
    if summary.data.notice:
        screen.notice(summary.data.notice)


def _train_on_kfp(settings: "Settings", host: str | None, reuse: bool, as_json: bool) -> None:
    from pipelines.server import Server
    from pipelines.submit import submit

    if host is None:
        raise typer.BadParameter("--on kfp needs --host, the address of the Kubeflow Pipelines server")
    done = submit(settings, Server(host), screen.pipeline_event, reuse=reuse)
    _show(asdict(done), as_json, lambda: screen.say(f"Run {done.run} ended as {done.state}: {done.link}"))


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="champion, challenger, a version, or the folder of a package.")
    ] = "champion",
    data: Data = None,
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Judge labelled X-rays with a model, on the path that serving takes, and give its figures."""
    from lungline.dataset import open_dataset
    from lungline.images import Limits
    from lungline.metrics import evaluate as figures_of

    folder = Path(model)
    settings = _settings(home, data=data) if folder.is_dir() else _connected(home, data=data)
    dataset = open_dataset(settings.data, settings=settings, require=(split,))
    examples = dataset.of(split)
    with _package(model, settings) as package:
        pictures = ((example.label, dataset.read(example)) for example in examples)
        evaluation = figures_of(package, pictures, Limits.from_settings(settings))
        facts = {"model": package.card.version or model, "data": dataset.name, "digest": dataset.digest, "split": split}
    _show(facts | evaluation.model_dump(mode="json"), as_json, lambda: screen.evaluation(facts, evaluation))


@app.command()
def models(home: Home = None, as_json: Json = False) -> None:
    """List the registered versions, newest first, and which one serves."""
    from lungline.registry import Registry

    versions = Registry(_connected(home)).versions()
    _show([asdict(version) for version in versions], as_json, lambda: screen.versions(versions))


@app.command()
def promote(
    by: By,
    reason: Reason,
    version: Annotated[str | None, typer.Argument(help="A version; the challenger when none is given.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a version into service, in the name of a person and for a reason."""
    from lungline import promotion
    from lungline.deployment import deployment_of

    settings = _connected(home)
    deployment = deployment_of(settings)
    done = promotion.promote(version, by=by, reason=reason, settings=settings, deployment=deployment)
    _show(asdict(done), as_json, lambda: screen.say(done.sentence))


@app.command()
def rollback(by: By, reason: Reason, home: Home = None, as_json: Json = False) -> None:
    """Put the champion before this one back into service."""
    from lungline import promotion
    from lungline.deployment import deployment_of

    settings = _connected(home)
    deployment = deployment_of(settings)
    done = promotion.rollback(by=by, reason=reason, settings=settings, deployment=deployment)
    _show(asdict(done), as_json, lambda: screen.say(done.sentence))


@app.command()
def history(
    at: Annotated[str | None, typer.Option(help="Only who was in service at this moment, as 2026-11-21T22:00.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell who put which version into service, when, why and on what figures, once the chain is proven unbroken."""
    from lungline.registry import Registry

    registry = Registry(_connected(home))
    entries = registry.verified_history()
    if at is not None:
        served = registry.history.at(_moment(at))
        entries = [served] if served else []
    _show([entry.model_dump(mode="json") for entry in entries], as_json, lambda: screen.history(entries))


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="champion, a version, or the folder of a package.")] = "champion",
    seconds: Annotated[float, typer.Option(help="Of each measurement.", min=1)] = 5.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure the predictor beside its floor, decoding and inference in a plain loop, in the same run."""
    import socket

    try:
        from benchmarks.predictor import measure
    except ModuleNotFoundError as exc:
        raise StackError("The benchmarks are not in the wheel: run this in a checkout, with `make bench`.") from exc
    settings = _settings(home) if Path(model).is_dir() else _connected(home)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with _package(model, settings) as package:
        found = measure(package.folder, port, seconds)
    _show(found, as_json, lambda: screen.table(("figure", "value"), found.items()))


@app.command()
def compile(  # noqa: A001  # the command's name; the builtin is not used here
    output: Annotated[Path, typer.Option("-o", "--output", help="The YAML file to write.")] = Path("pipeline.yaml"),
    assignments: Set = None,
) -> None:
    """Compile the training pipeline for a Kubeflow Pipelines server."""
    from pipelines.compile import compile_pipeline

    settings = _settings(assignments=assignments)
    compile_pipeline(output, settings)
    screen.say(f"Wrote {output}; every step runs in {settings.kfp_image}.")


if __name__ == "__main__":
    main()
