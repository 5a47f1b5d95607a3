"""Train and evaluate models."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console, model_output
from cli.options import (
    Data,
    Home,
    Json,
    Set,
    Task,
    configured,
    of_task,
    package_of,
    path_of,
    show,
    started,
    writing,
)

if TYPE_CHECKING:
    from lungline.settings import Settings
    from pipelines.run import RunSummary
    from pipelines.server import KfpServer

app = typer.Typer()


class Place(StrEnum):
    """Where a pipeline runs."""

    local = "local"
    kfp = "kfp"


@app.command()
def train(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    data: Data = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="What to look for: a task file, or a task's name."),
    ] = None,
    assignments: Set = None,
    policy: Annotated[
        str | None, typer.Option(metavar="auto|manual", help="Who promotes: the gate alone, or a person.")
    ] = None,
    feedback: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Add readers' labels: the output of `feedback export`, or `worklist` for all so far."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Reuse no steps of earlier runs.")] = False,
    on: Annotated[Place, typer.Option(help="Run here, or on a Kubeflow Pipelines server.")] = Place.local,
    host: Annotated[str | None, typer.Option(metavar="URL", help="Address of the Kubeflow Pipelines server.")] = None,
    kfp_namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Namespace of the run, on a server of several users.")
    ] = None,
    kfp_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The server's bearer token.", exists=True, dir_okay=False, readable=True),
    ] = None,
    kfp_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate authority of the server.", exists=True, dir_okay=False, readable=True
        ),
    ] = None,
    service_account: Annotated[
        str | None, typer.Option(metavar="NAME", help="Account of the steps [default: lungline-pipeline].")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run on the server to its end.")] = True,
    schedule: Annotated[
        str | None, typer.Option(metavar="CRON", help='Run on the server at these times, such as "0 3 * * 1" (UTC).')
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train a model and register it.

    Runs the pipeline: prepare, validate, train, evaluate, gate, register, promote.
    """
    if on is Place.kfp:
        token = _token(kfp_token_file)
        named = {"kfp_host": host, "kfp_namespace": kfp_namespace, "kfp_token": token}
        settings = configured(home, assignments, data=data, task=task, policy=policy, feedback=feedback, **named)
        server = _server(settings, service_account, kfp_ca)
        if schedule is not None:
            _schedule_on_kfp(settings, server, schedule, as_json)
        else:
            _train_on_kfp(settings, server, wait=wait, reuse=not fresh, as_json=as_json)
        return
    if schedule is not None:
        raise typer.BadParameter("only a server keeps a schedule: add --on kfp")
    from laptop import retraining
    from lungline.deployment.laptop import require_model
    from lungline.home import Home as Folder
    from lungline.task.reading import load_task
    from pipelines.run import run_local

    named = {"data": data, "task": task, "policy": policy, "feedback": feedback}
    settings = configured(home, assignments, **named)
    require_model(Folder(settings.home.absolute()), settings.model_name, load_task(settings.task).name)
    settings = started(home, assignments, **named)
    run = retraining.train if settings.feedback == retraining.WORKLIST else run_local
    summary = run(settings, console.pipeline_event, reuse=not fresh)
    _show_training(summary, as_json)


def _show_training(summary: "RunSummary", as_json: bool) -> None:
    links = {"MLflow": summary.mlflow_url, "Report": summary.report}
    metrics = summary.evaluation.metrics()
    value = {name: metrics.get(name) for name in ("auc", "ece", "unsure_rate")} | summary.model_dump(mode="json")
    show(value, as_json, lambda: model_output.training(summary.evaluation, summary.verdict, summary.next, links))
    if summary.data.notice:
        console.notice(summary.data.notice)


@app.command()
def retrain(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    data: Data = None,
    task: Task = None,
    assignments: Set = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only report whether a run would start, and why.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train again if new labels or drift are a reason to.

    The new labels come from readers. The gate compares the models and the policy decides who promotes.
    """
    from laptop import retraining
    from laptop.retraining import drift_cause

    settings = started(home, assignments, data=data, task=task)
    causes = [retraining.labels_cause(settings), drift_cause(settings)]
    if not as_json:
        for cause in causes:
            console.say(cause.sentence)
    report = retraining.retrain(settings, causes, console.pipeline_event, dry=dry)
    if report.summary is None:
        show(report.value(), as_json, lambda: console.say("No training run was started."))
    elif as_json:
        console.dump(report.value())
    else:
        _show_training(report.summary, as_json)


def _token(file: Path | None) -> str | None:
    from lungline.errors import SettingsError

    try:
        return file.read_text(encoding="utf-8").strip() if file else None
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"The token in {file} cannot be read: expected one line of text.") from exc


def _server(settings: "Settings", account: str | None, ca_file: Path | None) -> "KfpServer":
    from pipelines.resources import SERVICE_ACCOUNT
    from pipelines.server import KfpServer

    if settings.kfp_host is None:
        raise typer.BadParameter("--on kfp needs --host, the address of the Kubeflow Pipelines server")
    return KfpServer(
        settings.kfp_host, settings.kfp_namespace, settings.kfp_token, account or SERVICE_ACCOUNT, ca_file=ca_file
    )


def _train_on_kfp(settings: "Settings", server: "KfpServer", *, wait: bool, reuse: bool, as_json: bool) -> None:
    from pipelines.submit import submit

    run = submit(settings, server, console.pipeline_event, wait=wait, reuse=reuse)
    text = f"ended as {run.state}" if wait else "continues on the server"
    show(asdict(run), as_json, lambda: console.say(f"Run {run.run} {text}: {run.link}"))


def _schedule_on_kfp(settings: "Settings", server: "KfpServer", cron: str, as_json: bool) -> None:
    from pipelines.submit import schedule

    scheduled = schedule(settings, server, cron)
    instead = ", replacing the previous schedule" if scheduled.replaced else ""
    show(asdict(scheduled), as_json, lambda: console.say(f'Scheduled "{cron}" (UTC){instead}: {scheduled.link}'))


@app.command()
def evaluate(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="champion, challenger, a version, or the folder of a package.")
    ] = "champion",
    data: Data = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="The split to evaluate on.")] = "test",
    task: Task = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on labelled X-rays.

    Images are decoded and predicted exactly as in serving.
    """
    from lungline.datasets.opening import open_dataset
    from lungline.evaluation.scoring import evaluate as evaluate_package
    from lungline.imaging.image import Limits

    folder = Path(model)
    settings = configured(home, data=data) if folder.is_dir() else of_task(task, home, data=data)
    with package_of(model, settings) as package:
        dataset = open_dataset(settings.data, settings=settings, require=(split,), task=package.card.task)
        if dataset.notice:
            console.notice(dataset.notice)
        examples = dataset.of(split)
        images = ((example.label, dataset.read(example)) for example in examples)
        evaluation = evaluate_package(package, images, Limits.from_settings(settings))
        facts = {"model": package.card.version or model, "data": dataset.name, "digest": dataset.digest, "split": split}
    show(facts | evaluation.model_dump(mode="json"), as_json, lambda: model_output.evaluation(facts, evaluation))


@app.command()
def compile(  # noqa: A001  # the command's name; the builtin is not used here
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", parser=path_of, help="The YAML file to write.")
    ] = Path("pipeline.yaml"),
    task: Task = None,
    assignments: Set = None,
) -> None:
    """Compile the pipeline for a Kubeflow Pipelines server."""
    from pipelines.compile import compile_pipeline

    settings = configured(assignments=assignments, task=task)
    with writing(output):
        compile_pipeline(output, settings)
    console.say(f"Wrote {output}; the image of every step is {settings.kfp_image}.")
