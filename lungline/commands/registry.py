"""Which model serves, who put it there, and how to go back."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lungline import screen
from lungline.commands.options import By, Home, Json, Reason, connected, moment_of, show

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command()
def models(home: Home = None, as_json: Json = False) -> None:
    """List the registered versions, newest first, and which one serves."""
    from lungline.registry import Registry

    versions = Registry(connected(home)).versions()
    show([asdict(version) for version in versions], as_json, lambda: screen.versions(versions))


@app.command()
def promote(
    by: By,
    reason: Reason,
    version: Annotated[str | None, typer.Argument(help="A version; the challenger when none is given.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a version into service, in the name of a person and for a reason."""
    from lungline.deployment import deployment_of
    from lungline.lineage import promotion

    settings = connected(home)
    deployment = deployment_of(settings)
    done = promotion.promote(version, by=by, reason=reason, settings=settings, deployment=deployment)
    show(asdict(done), as_json, lambda: screen.say(done.sentence))


@app.command()
def rollback(by: By, reason: Reason, home: Home = None, as_json: Json = False) -> None:
    """Put the champion before this one back into service."""
    from lungline.deployment import deployment_of
    from lungline.lineage import promotion

    settings = connected(home)
    deployment = deployment_of(settings)
    done = promotion.rollback(by=by, reason=reason, settings=settings, deployment=deployment)
    show(asdict(done), as_json, lambda: screen.say(done.sentence))


@app.command()
def history(
    at: Annotated[str | None, typer.Option(help="Only who was in service at this moment, as 2026-11-21T22:00.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell who put which version into service, when, why and on what figures, once the chain is proven unbroken."""
    from lungline.registry import Registry

    registry = Registry(connected(home))
    entries = registry.verified_history()
    if at is not None:
        served = registry.history.at(moment_of(at))
        entries = [served] if served else []
    show([entry.model_dump(mode="json") for entry in entries], as_json, lambda: screen.history(entries))
