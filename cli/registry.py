"""Which model serves, who promoted it, and how to go back."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console, model_output
from cli.options import By, Context, Home, Json, Reason, Task, moment_of, of_task, path_of, show

if TYPE_CHECKING:
    from lungline.promotion.canary import CanaryComparison
    from lungline.settings import Settings

app = typer.Typer()


class Place(StrEnum):
    """Where models serve."""

    laptop = "laptop"
    cluster = "cluster"


On = Annotated[Place | None, typer.Option("--on", help="Where models serve [default: LUNGLINE_DEPLOYMENT].")]


def _show_progress(text: str) -> None:
    console.step("cluster", text)


@app.command()
def models(task: Task = None, home: Home = None, as_json: Json = False) -> None:
    """List the registered versions of the model, newest first."""
    from lungline.registry.versions import Registry

    versions = Registry(of_task(task, home)).versions()
    show([asdict(version) for version in versions], as_json, lambda: model_output.versions(versions))


@app.command()
def promote(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="A version [default: the challenger].")
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who decides; required except for a canary.")] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; required except for a canary.")] = "",
    task: Task = None,
    on: On = None,
    context: Context = None,
    canary: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT", help="Only try it, on this share of a cluster's requests (1 to 99).", min=1, max=99
        ),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES", help="Compare the canary with the champion; withdraw it if it is worse.", min=0
        ),
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Promote the canary.")] = False,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the Prometheus with the canary's metrics.")
    ] = None,
    without_gate: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why a version may serve that did not pass the gate; kept in the history."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Promote a version: it serves from now on.

    It needs --by and --reason. On a cluster, --canary tries the version on a share of the requests first.
    """
    trial = canary is not None or watch is not None
    if (finish or not trial) and not (by.strip() and reason.strip()):
        raise typer.BadParameter("a promotion needs --by and --reason")
    if version and (finish or watch is not None) and canary is None:
        raise typer.BadParameter("--watch and --finish concern the running canary: give no version")
    settings = of_task(task, home, deployment=on and on.value, kube_context=context, prometheus_uri=prometheus)
    if trial or finish:
        named = (by, reason) if finish else None
        _on_trial(
            settings, version, percent=canary, minutes=watch, finish=named, without_gate=without_gate, as_json=as_json
        )
        return
    from lungline.deployment.base import deployment_of
    from lungline.promotion import promotion

    deployment = deployment_of(settings, _show_progress)
    done = promotion.promote(
        version, by=by, reason=reason, settings=settings, deployment=deployment, without_gate=without_gate
    )
    show(asdict(done), as_json, lambda: console.say(done.sentence))


def _on_trial(
    settings: "Settings",
    version: str | None,
    *,
    percent: int | None,
    minutes: float | None,
    finish: tuple[str, str] | None,
    without_gate: str | None,
    as_json: bool,
) -> None:
    """Start, watch and promote a canary, as the options say; exit code 1 when one of these fails."""
    from lungline.promotion import canary

    if settings.deployment != "cluster":
        raise typer.BadParameter("only a cluster can split its requests between two versions: add --on cluster")
    if minutes is not None and not settings.prometheus_uri:
        raise typer.BadParameter("--watch needs --prometheus, the address of Prometheus")
    deployment = canary.ClusterDeployment.from_settings(settings, _show_progress)
    report: dict[str, Any] = {}
    sentences: list[str] = []
    passed = True
    if percent is not None:
        sentences.append(
            canary.start(version, percent, settings=settings, deployment=deployment, without_gate=without_gate)
        )
        report["canary"] = dict(zip(("version", "percent"), deployment.canary() or (version, percent), strict=True))
    if minutes is not None:
        comparison = canary.watch(
            deployment, settings.prometheus_uri or "", seconds=minutes * 60, on_look=_show_comparison
        )
        passed = not comparison.withdrawn and (comparison.passed or finish is None)
        sentences.append(comparison.sentence)
        report["watched"] = asdict(comparison)
    if finish is not None and passed:
        by, reason = finish
        done = canary.finish(by=by, reason=reason, settings=settings, deployment=deployment, without_gate=without_gate)
        sentences.append(done.sentence)
        report["promotion"] = asdict(done)
    show(report, as_json, lambda: console.raw(sentences))
    if not passed:
        raise typer.Exit(1)


def _show_comparison(comparison: "CanaryComparison") -> None:
    """Show one line of progress for one comparison."""

    def words(name: str, traffic: Any) -> str:
        errors = "no" if traffic.errors is None else f"{traffic.errors:.1%}"
        p99 = "none" if traffic.p99 is None else f"{traffic.p99:.2f} s"
        return f"{name} {traffic.requests:.0f} requests, {errors} errors, p99 {p99}"

    _show_progress(f"{words('canary', comparison.canary)}; {words('champion', comparison.champion)}")


@app.command()
def rollback(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    by: By,
    reason: Reason,
    task: Task = None,
    on: On = None,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Go back to the previous champion.

    On a cluster with a running canary, withdraw the canary instead.
    """
    from lungline.deployment.base import deployment_of
    from lungline.promotion import promotion

    settings = of_task(task, home, deployment=on and on.value, kube_context=context)
    if settings.deployment == "cluster":
        from lungline.promotion import canary

        place = canary.ClusterDeployment.from_settings(settings, _show_progress)
        done = canary.withdraw(by=by, reason=reason, settings=settings, deployment=place)
    else:
        done = promotion.rollback(by=by, reason=reason, settings=settings, deployment=deployment_of(settings))
    show(asdict(done), as_json, lambda: console.say(done.sentence))


@app.command()
def history(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    at: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Only the version that served then, such as 2026-11-21T22:00.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept the history as it is, where an anchor or a key was lost.")
    ] = False,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who accepts it.")] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    page: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=path_of, help="Write a signed page about each promotion into a folder."),
    ] = None,
    task: Task = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Verify the audit chain and show every promotion.

    Each entry says who promoted which version, when, why, and with which metrics. A page says what changed, how it was
    verified and what it may affect.
    """
    from lungline.deployment.base import deployment_of, reachable_deployment
    from lungline.promotion import anchored_history
    from lungline.registry.history import served_at

    if accept and not (by.strip() and reason.strip()):
        raise typer.BadParameter("--accept needs --by and --reason")
    settings = of_task(task, home)
    if accept:
        verified = anchored_history.accept(by=by, reason=reason, settings=settings, deployment=deployment_of(settings))
    else:
        verified = anchored_history.examined(settings, reachable_deployment(settings))
    entries = list(verified.entries)
    if at is not None:
        served = served_at(entries, moment_of(at))
        entries = [served] if served else []
    if page is not None:
        from cli.dossiers import write_pages

        write_pages(settings, page, as_json=as_json)
    else:
        show([entry.model_dump(mode="json") for entry in entries], as_json, lambda: model_output.history(entries))
    for notice in (*verified.lost, *verified.notices):
        console.notice(notice)
