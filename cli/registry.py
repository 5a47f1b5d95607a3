"""Which model serves, who put it there, and how to go back."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from cli.options import By, Context, Home, Json, Reason, connected, moment_of, show

if TYPE_CHECKING:
    from lungline.promotion.canary import CanaryComparison
    from lungline.settings import Settings

app = typer.Typer()


class Place(StrEnum):
    """Where models serve."""

    laptop = "laptop"
    cluster = "cluster"


On = Annotated[Place | None, typer.Option("--on", help="Where models serve [default: the setting deployment].")]


def _tell(text: str) -> None:
    console.step("cluster", text)


@app.command()
def models(home: Home = None, as_json: Json = False) -> None:
    """List the registered versions, newest first, and which one serves."""
    from lungline.registry.versions import Registry

    versions = Registry(connected(home)).versions()
    show([asdict(version) for version in versions], as_json, lambda: console.versions(versions))


@app.command()
def promote(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    version: Annotated[str | None, typer.Argument(help="A version; the challenger when none is given.")] = None,
    by: Annotated[str, typer.Option(help="Who decides; needed for all but a trial.")] = "",
    reason: Annotated[str, typer.Option(help="Why; needed for all but a trial.")] = "",
    on: On = None,
    context: Context = None,
    canary: Annotated[
        int | None, typer.Option(help="Only try it out, on so many percent of a cluster's requests.", min=1, max=99)
    ] = None,
    watch: Annotated[
        float | None, typer.Option(help="Minutes to compare the canary with the champion; a worse one goes.", min=0)
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Promote the canary that is out.")] = False,
    prometheus: Annotated[
        str | None, typer.Option(help="Address of the Prometheus that a canary is watched through.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a version into service, in the name of a person and for a reason; on a cluster, if wished, on trial first."""
    trial = canary is not None or watch is not None
    if (finish or not trial) and not (by.strip() and reason.strip()):
        raise typer.BadParameter("a promotion says who decides and why: give --by and --reason")
    if version and (finish or watch is not None) and canary is None:
        raise typer.BadParameter("--watch and --finish are about the canary that is out: give no version")
    settings = connected(home, deployment=on and on.value, kube_context=context, prometheus_uri=prometheus)
    if trial or finish:
        named = (by, reason) if finish else None
        _on_trial(settings, version, percent=canary, minutes=watch, finish=named, as_json=as_json)
        return
    from lungline.deployment.base import deployment_of
    from lungline.promotion import promotion

    deployment = deployment_of(settings, _tell)
    done = promotion.promote(version, by=by, reason=reason, settings=settings, deployment=deployment)
    show(asdict(done), as_json, lambda: console.say(done.sentence))


def _on_trial(
    settings: "Settings",
    version: str | None,
    *,
    percent: int | None,
    minutes: float | None,
    finish: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Send a canary, watch it and promote it, as far as was asked; exit code 1 when it did not come that far."""
    from lungline.promotion import canary

    if settings.deployment != "cluster":
        raise typer.BadParameter("only a cluster divides its requests between two versions: add --on cluster")
    if minutes is not None and not settings.prometheus_uri:
        raise typer.BadParameter("--watch needs --prometheus, the address of Prometheus")
    deployment = canary.ClusterDeployment.from_settings(settings, _tell)
    told: dict[str, Any] = {}
    said: list[str] = []
    passed = True
    if percent is not None:
        said.append(canary.start(version, percent, settings=settings, deployment=deployment))
        told["canary"] = dict(zip(("version", "percent"), deployment.canary() or (version, percent), strict=True))
    if minutes is not None:
        seen = canary.watch(deployment, settings.prometheus_uri or "", seconds=minutes * 60, on_look=_compared)
        passed = not seen.withdrawn and (seen.passed or finish is None)
        said.append(seen.sentence)
        told["watched"] = asdict(seen)
    if finish is not None and passed:
        by, reason = finish
        done = canary.finish(by=by, reason=reason, settings=settings, deployment=deployment)
        said.append(done.sentence)
        told["promotion"] = asdict(done)
    show(told, as_json, lambda: console.raw(said))
    if not passed:
        raise typer.Exit(1)


def _compared(seen: "CanaryComparison") -> None:
    """One line of progress for one look at both."""

    def words(who: str, one: Any) -> str:
        errors = "no" if one.errors is None else f"{one.errors:.1%}"
        p99 = "none" if one.p99 is None else f"{one.p99:.2f} s"
        return f"{who} {one.requests:.0f} requests, {errors} errors, p99 {p99}"

    _tell(f"{words('canary', seen.canary)}; {words('champion', seen.champion)}")


@app.command()
def rollback(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    by: By, reason: Reason, on: On = None, context: Context = None, home: Home = None, as_json: Json = False
) -> None:
    """Put the champion before this one back into service; on a cluster, withdraw the canary first where one is out."""
    from lungline.deployment.base import deployment_of
    from lungline.promotion import promotion

    settings = connected(home, deployment=on and on.value, kube_context=context)
    if settings.deployment == "cluster":
        from lungline.promotion import canary

        place = canary.ClusterDeployment.from_settings(settings, _tell)
        done = canary.withdraw(by=by, reason=reason, settings=settings, deployment=place)
    else:
        done = promotion.rollback(by=by, reason=reason, settings=settings, deployment=deployment_of(settings))
    show(asdict(done), as_json, lambda: console.say(done.sentence))


@app.command()
def history(
    at: Annotated[str | None, typer.Option(help="Only who was in service at this moment, as 2026-11-21T22:00.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell who put which version into service, when, why and on what figures, once the chain is proven unbroken."""
    from lungline.registry.versions import Registry

    registry = Registry(connected(home))
    entries = registry.verified_history()
    if at is not None:
        served = registry.history.at(moment_of(at))
        entries = [served] if served else []
    show([entry.model_dump(mode="json") for entry in entries], as_json, lambda: console.history(entries))
