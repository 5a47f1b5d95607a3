"""Second opinions: another version judges live uploads unseen, or old ones once more."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from cli.options import Context, Home, Json, Task, configured, moment_of, of_task, show
from cli.registry import On, Place

if TYPE_CHECKING:
    from datetime import datetime

    from eventing.rejudge import Rejudged
    from laptop.home.challengers import Challenger
    from lungline.evaluation.disagreement import Comparison
    from lungline.promotion.challenger import Component
    from lungline.results.purposes import Purpose
    from lungline.settings import Settings

app = typer.Typer()
shadow = typer.Typer(help="A version that judges live uploads unseen.", no_args_is_help=True)
app.add_typer(shadow, name="shadow")


@shadow.command("start")
def shadow_start(  # noqa: PLR0917 - Typer passes them by name
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="A version [default: the challenger].")
    ] = None,
    task: Task = None,
    on: On = None,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let a version judge all live uploads of its task from now on.

    Nobody who reads an X-ray sees its results, and it sends no notices. It goes on after `down` and `up`. A cluster
    needs the component `shadow`.
    """
    settings = of_task(task, home, deployment=on and on.value, kube_context=context)
    if settings.deployment == "cluster":
        from lungline.promotion.challenger import challenge

        sentence = challenge(settings, version, "shadow", lambda text: console.step("cluster", text))
        show({"sentence": sentence}, as_json, lambda: console.say(sentence))
        return
    from laptop import challengers

    started = challengers.start(settings, version, "shadow", console.service_changed)
    text = f"Version {started.version} judges live uploads, unseen; `lungline shadow status` compares it."
    show(_value(started), as_json, lambda: console.say(text))


@shadow.command("status")
def shadow_status(
    task: Task = None, on: On = None, context: Context = None, home: Home = None, as_json: Json = False
) -> None:
    """Show how the version in the shadow differs from the answers.

    Exit code 1 when none is there.
    """
    settings = of_task(task, home, deployment=on and on.value, kube_context=context)
    if settings.deployment == "cluster":
        _show_cluster(settings, as_json)
        return
    from worklist.commands import compare_opinions

    running = _running(settings, "shadow", task)
    if running is None:
        show({"version": None}, as_json, lambda: console.say(f"No version{_of(task)} is in the shadow."))
        raise typer.Exit(1)
    comparison = compare_opinions(settings, "shadow", running.recorded)
    value = _value(running) | {"share": comparison.share} | asdict(comparison)
    head = f"Version {running.version} is in the shadow since {running.since:%Y-%m-%d %H:%M} UTC."
    show(value, as_json, lambda: _show_comparison(head, running.version, comparison))


def _show_cluster(settings: "Settings", as_json: bool) -> None:
    from lungline.promotion.challenger import recorded, standing
    from worklist.commands import compare_from_afar

    stands = standing(settings, "shadow")
    if stands.version is None:
        show(asdict(stands), as_json, lambda: console.say(stands.sentence))
        raise typer.Exit(1)
    comparison = compare_from_afar(settings, "shadow", recorded(settings, stands.version))
    value = asdict(stands) | {"share": comparison.share} | asdict(comparison)

    def say() -> None:
        _show_comparison(stands.sentence, stands.version or "", comparison)
        console.say("The worklist's page /shadow shows each of them, to administrators.")

    show(value, as_json, say)
    if not stands.ready:
        raise typer.Exit(1)


@shadow.command("stop")
def shadow_stop(
    task: Task = None, on: On = None, context: Context = None, home: Home = None, as_json: Json = False
) -> None:
    """Take the version out of the shadow; what it has said stays."""
    _stop("shadow", task, on, context, home, as_json)


@app.command()
def rejudge(  # noqa: PLR0917 - Typer passes them by name
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="Who judges [default: the challenger].")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Only what arrived since then, such as 2026-11-21T22:00.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="MOMENT", help="Only what arrived until then.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Only answers with this label; repeatable.")
    ] = None,
    most: Annotated[int | None, typer.Option(metavar="COUNT", help="At most so many, the latest first.", min=1)] = None,
    rate: Annotated[float, typer.Option(metavar="NUMBER", help="Uploads a second at most.", min=0.01, max=1000)] = 2.0,
    stop: Annotated[bool, typer.Option("--stop", help="Instead, end what an interrupted call left running.")] = False,
    task: Task = None,
    on: On = None,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let a version judge old uploads of its task.

    The worklist shows both answers. Live uploads come first, and nothing sends a notice. An interrupted call goes on
    where it stopped when it is repeated. Exit code 1 when an upload was not judged.
    """
    from laptop.rejudging import rejudge_uploads

    if stop:
        _stop("rejudge", task, on, context, home, as_json)
        return
    settings = of_task(task, home, deployment=on and on.value, kube_context=context)
    os.nice(10)  # this process lists and sends beside live uploads
    labels = frozenset(label or ())
    done = rejudge_uploads(
        settings, version, since=_moment(since), until=_moment(until), labels=labels, most=most, rate=rate,
        on_progress=_show_progress, on_change=console.service_changed,
    )  # fmt: skip
    show(asdict(done), as_json, lambda: console.say(str(done)))
    if done.judged < done.sent:
        raise typer.Exit(1)


def _stop(  # noqa: PLR0917 - the options of a command
    component: "Component", task: str | None, on: Place | None, context: str | None, home: Path | None, as_json: bool
) -> None:
    """End second opinions, on a laptop whether its stack runs or not; of a task only its own."""
    place = {"deployment": on and on.value, "kube_context": context}
    settings = configured(home, **place)
    if settings.deployment == "cluster":
        from lungline.promotion import challenger

        version = challenger.stop(of_task(task, home, **place), component)
        value: dict[str, Any] = {"version": version}
    else:
        from laptop import challengers

        purpose: Purpose = "shadow" if component == "shadow" else "rejudged"
        stopped = challengers.stop(settings, purpose) if _running(settings, purpose, task) else None
        value = _value(stopped) if stopped else {"version": None}
    old, where = ("", "in the shadow") if component == "shadow" else ("old ", "at old uploads")
    ended, none = f"Version {value['version']} judges no more {old}uploads.", f"No version{_of(task)} is {where}."
    show(value, as_json, lambda: console.say(ended if value["version"] else none))


def _running(settings: "Settings", purpose: "Purpose", task: str | None) -> "Challenger | None":
    """The challenger of a laptop, whichever it is where no task is named."""
    from laptop.home.challengers import challengers
    from lungline.errors import TaskError
    from lungline.home import Home as Folder

    running = challengers(Folder(settings.home.absolute())).get(purpose)
    if running is None or task is None:
        return running
    try:
        model = configured(task=task).model_name
    except TaskError:  # its file is not at hand
        model = task
    return running if running.model == model else None


def _of(task: str | None) -> str:
    return f" of {task}" if task else ""


def _moment(text: str | None) -> "datetime | None":
    return moment_of(text) if text is not None else None


def _value(challenger: "Challenger") -> dict[str, Any]:
    return asdict(challenger) | {"since": challenger.since.isoformat()}


def _show_progress(report: "Rejudged") -> None:
    if (report.sent + report.judged) % 100 == 0:
        console.step("rejudge", f"{report.sent} sent, {report.judged} judged")


def _show_comparison(head: str, version: str, comparison: "Comparison") -> None:
    console.say(head)
    if comparison.share is None:
        console.say("It has judged no upload that has an answer yet.")
        return
    console.table(("answer", f"version {version}", "uploads"), [
        (pair.answer, pair.opinion, pair.uploads) for pair in comparison.labels
    ])  # fmt: skip
    readers = comparison.readers
    console.say(f"Another label: {comparison.different} of {comparison.results} ({comparison.share:.1%}).")
    if readers.uploads:
        console.say(
            f"Readers' verdicts: {readers.uploads}; the answers agree with {readers.answer}, it with {readers.opinion}."
        )
    times = (comparison.waited_p50, comparison.waited_p99, comparison.worked_mean)
    if any(each is not None for each in times):
        console.say(
            "From its event on: p50 {:.0f} ms, p99 {:.0f} ms; work {:.0f} ms.".format(*(each or 0 for each in times))
        )
