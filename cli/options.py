"""What commands share: their options, the settings they start from, and how they show a value."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console

if TYPE_CHECKING:
    from lungline.package.package import Package
    from lungline.settings import Settings


def path_of(text: str) -> Path:
    """The path that an option names; an empty text, such as an unset variable gives, is not the current folder."""
    if not text:
        raise typer.BadParameter("expected a path; found nothing")
    return Path(text)


Home = Annotated[
    Path | None, typer.Option(metavar="FOLDER", parser=path_of, help="State of the laptop stack [default: .lungline].")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="A folder, a zip, an .npz, medmnist:SIZE, s3://bucket/prefix, phantom[:N], or auto."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as train.epochs=10; repeatable."),
]
Context = Annotated[
    str | None, typer.Option(metavar="NAME", help="Context of the kubeconfig [default: the current one].")
]
Task = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="Whose models: a task's name or file [default: LUNGLINE_TASK]."),
]
By = Annotated[str, typer.Option(metavar="NAME", help="Who decides.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why.")]


def configured(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Settings from the environment, the given options, and `--set`."""
    from lungline.settings import load_settings

    overrides = {name: value for name, value in {"home": home, **named}.items() if value is not None}
    if task := overrides.get("task"):
        overrides = names_of_task(task) | overrides
    for assignment in assignments or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, such as train.epochs=10; found {assignment!r}")
        overrides[name.strip()] = value.strip()
    return load_settings(overrides)


def names_of_task(task: str) -> dict[str, str]:
    """Names of model and experiment, where a task is another than the environment's, whose names these may be."""
    from lungline.settings import load_settings
    from lungline.task.reading import load_task

    name = load_task(task).name
    return {} if name == load_task(load_settings().task).name else {"model_name": name, "experiment": name}


def connected(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Settings completed with the addresses and credentials of the running stack.

    On a cluster there is no stack; the settings name everything.
    """
    settings = configured(home, assignments, **named)
    if settings.deployment == "cluster":
        return settings
    from laptop import stack

    return stack.connect(settings)


def of_task(task: str | None, home: Path | None = None, **named: Any) -> "Settings":
    """Like `connected`, for the models of a task: one that can be loaded, or that the registry has models of.

    Their packages answer for their task, so that nobody needs its file. Raises TaskError.
    """
    from lungline.errors import TaskError
    from lungline.storage.s3 import Storage
    from lungline.task.reading import is_name, load_task, packaged

    if task is None:
        return connected(home, **named)
    try:
        load_task(task)
    except TaskError:
        if not is_name(task):
            raise
    else:
        return connected(home, task=task, **named)
    settings = connected(home, **named)
    registered = set(Storage.from_settings(settings).folders(settings.models_bucket, ""))
    if task not in registered:
        there = ", ".join(sorted(registered | set(packaged())))
        raise TaskError(f"There is no task {task}: expected a task file, or one of {there}.")
    return settings.model_copy(update={"task": task, "model_name": task, "experiment": task})


def started(home: Path | None = None, assignments: list[str] | None = None, **named: Any) -> "Settings":
    """Like `connected`, but starts the stack first when it does not run."""
    from laptop import stack
    from lungline.deployment.laptop import is_first
    from lungline.home import Home as Folder

    settings = configured(home, assignments, **named)
    if not stack.status(settings).running:
        console.heading("Starting the laptop stack; `lungline down` stops it.")
        others = {name: value for name, value in named.items() if name != "task"}
        # Where another task serves already, the stack is not that of the task which is trained.
        serves = settings if is_first(Folder(settings.home), settings.model_name) else configured(home, **others)
        stack.up(serves, console.service_changed)
    return stack.connect(settings)


@contextmanager
def package_of(model: str, settings: "Settings") -> "Generator[Package]":
    """The package that `model` names: a folder, or a version or alias in the registry."""
    from lungline.package.package import Package

    if Path(model).is_dir():
        yield Package.load(Path(model))
        return
    from lungline.registry.versions import Registry

    registry = Registry(settings)
    with TemporaryDirectory(prefix="lungline-") as temporary:
        yield registry.fetch(registry.resolve(model), Path(temporary) / "package")


def moment_of(text: str) -> datetime:
    """The moment in an ISO 8601 text, in this machine's time zone unless it names one."""
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.astimezone()
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(f"expected a moment such as 2026-11-21T22:00; found {text!r}") from exc


def show(value: Any, as_json: bool, show_text: Callable[[], None]) -> None:
    """Print a value as JSON, or show it as text."""
    if as_json:
        console.dump(value)
    else:
        show_text()


@contextmanager
def writing(path: Path) -> "Generator[None]":
    """The body writes to a path that the user named. Raises LunglineError where the system does not let it."""
    from lungline.errors import LunglineError

    try:
        yield
    except OSError as exc:
        raise LunglineError(f"{exc.filename or path} cannot be written: {exc.strerror}.") from exc
