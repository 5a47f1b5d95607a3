"""The laptop stack: start, look, stop."""

import html
import os
import sys
import webbrowser
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import Context, Data, Home, Json, Set, configured, show

if TYPE_CHECKING:
    from lungline.settings import Settings

app = typer.Typer()

_PAGE = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}"><title>Worklist</title>'
)

SIGN_IN = "`lungline worklist link` signs you in to the worklist."


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
    from laptop import demo as whole_flow

    stays = sys.stdout.isatty() and not as_json if stay is None else stay
    settings = configured(home, assignments, data=data)
    with whole_flow.stage(settings, console.service_changed) as stage:
        report = whole_flow.perform(stage, console)
        show(report.value(), as_json, lambda: console.demo(report.value()))
        if stays:
            if not as_json:
                _welcome(stage.settings)
            console.notice("Everything stays up until Ctrl-C.")
            whole_flow.rest()


def _welcome(settings: "Settings") -> None:
    """Lead a person to the worklist, signed in."""
    link = sign_in_link(settings)
    opened = sys.stdout.isatty() and open_browser(settings, link)
    console.notice(f"The worklist {'opens in your browser' if opened else 'waits for you'}; this link works once:")
    console.raw([link])


def sign_in_link(settings: "Settings") -> str:
    """A link that opens the worklist of the running stack once, within a day. Raises StackError."""
    from laptop import stack
    from worklist.commands import login_url

    stack.wait(settings, "worklist")
    return login_url(stack.connect(settings))


def open_browser(settings: "Settings", link: str) -> bool:
    """Open a link in the browser of whoever sits here; False where there is no screen.

    A command line may be read by everybody on this machine, so the browser is given a private file that leads on.
    """
    if not _has_screen():
        return False
    from lungline.home import Home, write_private

    page = Home(settings.home.absolute()).file("worklist", "open.html")
    write_private(page, _PAGE.format(link=html.escape(link)))
    return webbrowser.open(page.as_uri())


def _has_screen() -> bool:
    if sys.platform in {"darwin", "win32"}:
        return "SSH_CONNECTION" not in os.environ
    # Without one, the only browsers are those that would take over the terminal.
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@app.command()
def up(
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Start a Prometheus beside it, which scrapes all services.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Start the laptop stack in the background: store, broker, MLflow, bridge, trigger, predictor, worklist."""
    from laptop import stack

    settings = configured(home, prometheus=prometheus or None)
    started = stack.up(settings, console.service_changed, wait_for=stack.ESSENTIAL | {"worklist"})
    show(started.value(), as_json, lambda: console.stack(started.services))
    if not as_json:
        console.notice(SIGN_IN)


@app.command()
def down(home: Home = None, as_json: Json = False) -> None:
    """Stop the laptop stack; what it stored stays."""
    from laptop import stack

    settings = configured(home)
    stopped = stack.down(settings)
    text = "The stack is stopped." if stopped else f"No stack runs in {settings.home.absolute()}."
    show({"stopped": stopped}, as_json, lambda: console.say(text))


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show each service of the stack, what flows and what waits, and what to do; exit code 1 when no stack runs."""
    from laptop import doctor as health
    from laptop import stack

    found = stack.status(configured(home))
    looked = health.check_metrics(found)
    value = found.value() | {"health": [asdict(check) for check in looked]}
    show(value, as_json, lambda: console.stack(found.services, looked))
    if found.service("worklist").state == "ready" and not as_json:
        console.notice(SIGN_IN)
    if not found.running:
        console.notice(f"No stack runs in {found.home}: `lungline up` starts one.")
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
        from lungline.settings import setting_descriptions, variable

        known = [(variable(name), default, text) for name, default, text in setting_descriptions()]
        show(known, as_json, lambda: console.table(("variable", "default", "meaning"), known))
        return

    from laptop import stack

    found = stack.env(configured(home), scanner=scanner)
    show(found, as_json, lambda: console.raw(f"export {name}={shlex.quote(value)}" for name, value in found.items()))


@app.command()
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at the cluster instead.")] = False,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check what the stack needs and what runs of it; each fault comes with its cure, and exit code 1."""
    if cluster:
        from lungline.deployment import cluster_doctor
        from lungline.deployment.kubernetes_api import KubernetesApi

        settings = configured(home, kube_context=context)
        found = list(cluster_doctor.examine(KubernetesApi.connect(settings.kube_context)))
    else:
        from laptop.doctor import examine

        found = examine(configured(home))
    show([asdict(check) for check in found], as_json, lambda: console.checks(found))
    if not all(check.passed for check in found):
        raise typer.Exit(1)
