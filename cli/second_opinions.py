"""Second opinions: another version judges live uploads unseen, or old ones once more."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from cli.options import Context, Home, Json, configured, connected, moment_of, show
from cli.registry import On

if TYPE_CHECKING:
    from datetime import datetime

    from eventing.rejudge import Rejudged
    from laptop.home.challengers import Challenger
    from lungline.evaluation.disagreement import Comparison

app = typer.Typer()
shadow = typer.Typer(help="A version that judges live uploads unseen.", no_args_is_help=True)
app.add_typer(shadow, name="shadow")


@shadow.command("start")
def shadow_start(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="A version [default: the challenger].")
    ] = None,
    on: On = None,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let a version judge all live uploads from now on.

    Nobody who reads an X-ray sees its results, and it sends no notices. It goes on after `down` and `up`. A cluster
    needs the component `shadow`.
    """
    settings = configured(home, deployment=on and on.value, kube_context=context)
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
def shadow_status(home: Home = None, as_json: Json = False) -> None:
    """Show how the version in the shadow differs from the answers.

    Exit code 1 when none is there.
    """
    from laptop.home.challengers import challengers
    from lungline.home import Home as Folder
    from worklist.commands import compare_opinions

    settings = connected(home)
    running = challengers(Folder(settings.home)).get("shadow")
    if running is None:
        show({"version": None}, as_json, lambda: console.say("No version is in the shadow."))
        raise typer.Exit(1)
    comparison = compare_opinions(settings, "shadow", running.recorded)
    value = _value(running) | {"share": comparison.share} | asdict(comparison)
    show(value, as_json, lambda: _show_comparison(running, comparison))


@shadow.command("stop")
def shadow_stop(home: Home = None, as_json: Json = False) -> None:
    """Take the version out of the shadow; what it has said stays."""
    from laptop import challengers

    stopped = challengers.stop(configured(home), "shadow")
    text = f"Version {stopped.version} judges no more uploads." if stopped else "No version was in the shadow."
    show(_value(stopped) if stopped else {"version": None}, as_json, lambda: console.say(text))


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
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let a version judge old uploads.

    The worklist shows both answers. Live uploads come first, and nothing sends a notice. An interrupted call goes on
    where it stopped when it is repeated. Exit code 1 when an upload was not judged.
    """
    from laptop.rejudging import rejudge_uploads

    settings = configured(home)
    if stop:
        _stop_rejudging(home, as_json)
        return
    os.nice(10)  # this process lists and sends beside live uploads
    labels = frozenset(label or ())
    done = rejudge_uploads(
        settings, version, since=_moment(since), until=_moment(until), labels=labels, most=most, rate=rate,
        on_progress=_show_progress, on_change=console.service_changed,
    )  # fmt: skip
    show(asdict(done), as_json, lambda: console.say(str(done)))
    if done.judged < done.sent:
        raise typer.Exit(1)


def _stop_rejudging(home: Any, as_json: bool) -> None:
    from laptop import challengers

    stopped = challengers.stop(configured(home), "rejudged")
    text = f"Version {stopped.version} judges no more old uploads." if stopped else "No version is at old uploads."
    show(_value(stopped) if stopped else {"version": None}, as_json, lambda: console.say(text))


def _moment(text: str | None) -> "datetime | None":
    return moment_of(text) if text is not None else None


def _value(challenger: "Challenger") -> dict[str, Any]:
    return asdict(challenger) | {"since": challenger.since.isoformat()}


def _show_progress(report: "Rejudged") -> None:
    if (report.sent + report.judged) % 100 == 0:
        console.step("rejudge", f"{report.sent} sent, {report.judged} judged")


def _show_comparison(challenger: "Challenger", comparison: "Comparison") -> None:
    console.say(f"Version {challenger.version} is in the shadow since {challenger.since:%Y-%m-%d %H:%M} UTC.")
    if comparison.share is None:
        console.say("It has judged no upload that has an answer yet.")
        return
    console.table(("answer", f"version {challenger.version}", "uploads"), [
        (pair.answer, pair.opinion, pair.uploads) for pair in comparison.labels
    ])  # fmt: skip
    readers = comparison.readers
    console.say(f"Another label: {comparison.different} of {comparison.results} ({comparison.share:.1%}).")
    if readers.uploads:
        console.say(
            f"Readers' verdicts: {readers.uploads}; the answers agree with {readers.answer}, it with {readers.opinion}."
        )
    times = (comparison.waited_p50, comparison.waited_p99, comparison.worked_mean)
    console.say(
        "From its event on: p50 {:.0f} ms, p99 {:.0f} ms; work {:.0f} ms.".format(*(each or 0 for each in times))
    )
