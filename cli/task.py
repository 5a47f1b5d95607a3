"""Task files: check one, or begin one."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import Json, path_of, show, writing

if TYPE_CHECKING:
    from lungline.task.task import Task

app = typer.Typer()
task = typer.Typer(help="Task files: what is looked for, and what it is called.", no_args_is_help=True)
app.add_typer(task, name="task")


class ComponentOfTask(StrEnum):
    """What the manifests of a task are for."""

    serving = "serving"
    shadow = "shadow"
    rejudge = "rejudge"


class KindOfTask(StrEnum):
    """How many findings an image may have."""

    binary = "binary"
    one_of_several = "one-of-several"
    many_at_once = "many-at-once"


@task.command("check")
def task_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A task file, or a task that comes with Lungline.")],
    as_json: Json = False,
) -> None:
    """Check a task file: where it is wrong, what was expected, and what is there."""
    from lungline.task.reading import load_task

    checked = load_task(file)
    show(checked.model_dump(mode="json"), as_json, lambda: _say(checked))


def _say(checked: "Task") -> None:
    findings = ", ".join(finding.label for finding in checked.findings)
    console.say(f"{checked.name} is a task: {checked.title} ({checked.kind}: {findings}).")


@task.command("manifests")
def task_manifests(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A task file, or a task that comes with Lungline.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", parser=path_of, help="Folder to write [default: task-NAME]."),
    ] = None,
    purpose: Annotated[
        ComponentOfTask, typer.Option("--for", help="To serve it, or to give second opinions on its uploads.")
    ] = ComponentOfTask.serving,
) -> None:
    """Write what a cluster needs to serve a task beside the default one: a component of the manifests."""
    from lungline.deployment.task_manifests import challenger_component_of, component_of
    from lungline.task.reading import load_task

    name = load_task(file).name
    serves = purpose is ComponentOfTask.serving
    folder = output or Path(f"task-{name}" if serves else f"task-{name}-{purpose}")
    files = component_of(file) if serves else challenger_component_of(file, purpose)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for each, text in files.items():
            (folder / each).write_text(text, encoding="utf-8")
    console.say(f"Wrote {folder}; next: add it to `components` of your overlay, and apply that (docs/cluster.md).")


@task.command("new")
def task_new(
    name: Annotated[str, typer.Argument(help="Of the task, such as rib-fracture.")],
    kind: Annotated[KindOfTask, typer.Option(help="How many findings an image may have.")] = KindOfTask.binary,
    finding: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="A finding; once for each, the negative first. [default: some to replace]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", parser=path_of, help="File to write [default: NAME.toml]."),
    ] = None,
) -> None:
    """Write a task file to begin with, with a comment above each field."""
    from lungline.errors import TaskError
    from lungline.task.reading import packaged
    from lungline.task.writing import begin

    file = output or Path(f"{name}.toml")
    if file.exists() or file.is_symlink():
        raise TaskError(f"{file} is there already; expected a new file.")
    if name in packaged():
        raise TaskError(f"The task {name} comes with Lungline; expected another name.")
    text = begin(name, kind.value, finding or ())
    with writing(file):
        file.write_text(text, encoding="utf-8")
    console.say(f"Wrote {file}; next: edit it, then `lungline task check {file}`.")
