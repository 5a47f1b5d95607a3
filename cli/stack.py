"""The laptop stack: start it, check it, stop it."""

import html
import os
import sys
import webbrowser
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from cli.demo_output import DemoOutput, show_report
from cli.options import Context, Data, Home, Json, Set, configured, show

if TYPE_CHECKING:
    from laptop.supervision.status import ServiceStatus
    from lungline.health_check import Check
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
    """Show the whole flow, from training to results.

    Starts the stack, trains, registers and promotes a model, uploads X-rays and shows the results as they arrive.
    """
    from laptop import demo as demonstration

    stays = sys.stdout.isatty() and not as_json if stay is None else stay
    settings = configured(home, assignments, data=data)
    with demonstration.stage(settings, console.service_changed) as stage:
        report = demonstration.perform(stage, DemoOutput())
        show(report.value(), as_json, lambda: show_report(report.value()))
        if stays:
            if not as_json:
                _welcome(stage.settings)
            console.notice("Everything stays up until Ctrl-C.")
            demonstration.wait_for_interrupt()


def _welcome(settings: "Settings") -> None:
    """Show a person the way to the worklist, signed in."""
    link = sign_in_link(settings)
    opened = sys.stdout.isatty() and open_browser(settings, link)
    console.notice(f"The worklist {'opens in your browser' if opened else 'is ready'}; this link works once:")
    console.raw([link])


def sign_in_link(settings: "Settings") -> str:
    """A link that opens the running stack's worklist once, within a day. Raises StackError."""
    from laptop import stack
    from worklist.commands import login_url

    stack.wait(settings, "worklist")
    return login_url(stack.connect(settings))


def open_browser(settings: "Settings", link: str) -> bool:
    """Open a link in this user's browser; False where there is no screen.

    Everybody on this machine may read a command line, so the browser is given a private file that redirects.
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
        bool, typer.Option("--prometheus", help="Also start a Prometheus that scrapes all services.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Start the laptop stack in the background.

    It consists of an object store, a Kafka broker, MLflow, event bridge, trigger, predictor and worklist.
    """
    from laptop import stack
    from lungline.storage.contents import loss_of

    settings = configured(home, prometheus=prometheus or None)
    status = stack.up(settings, console.service_changed, wait_for=stack.ESSENTIAL | {"worklist"})
    show(status.value(), as_json, lambda: _show_stack(status.services))
    if loss := loss_of(status.home):
        console.notice(f"{loss} `lungline status` says what to do.")
    if not as_json:
        console.notice(SIGN_IN)


@app.command()
def down(home: Home = None, as_json: Json = False) -> None:
    """Stop the laptop stack; its data stay."""
    from laptop import stack

    settings = configured(home)
    stopped = stack.down(settings)
    text = "The stack is stopped." if stopped else f"No stack runs in {settings.home.absolute()}."
    show({"stopped": stopped}, as_json, lambda: console.say(text))


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show the services of the stack and their health.

    Each fault comes with its remedy. Exit code 1 when no stack runs.
    """
    from laptop import stack
    from laptop.checks.flow import check_flow

    status = stack.status(configured(home))
    health = check_flow(status)
    value = status.value() | {"health": [asdict(check) for check in health]}
    show(value, as_json, lambda: _show_stack(status.services, health))
    if status.service("worklist").state == "ready" and not as_json:
        console.notice(SIGN_IN)
    if not status.running:
        console.notice(f"No stack runs in {status.home}: `lungline up` starts one.")
        raise typer.Exit(1)


@app.command()
def env(
    scanner: Annotated[bool, typer.Option("--scanner", help="Print credentials that may only upload X-rays.")] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="List all settings instead, with their defaults.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print shell exports for S3, Kafka and MLflow clients.

    With eval "$(lungline env)", any such client uses the running stack.
    """
    import shlex

    if settings:
        from lungline.settings import setting_descriptions, variable

        rows = [(variable(name), default, text) for name, default, text in setting_descriptions()]
        show(rows, as_json, lambda: console.table(("variable", "default", "meaning"), rows))
        return

    from laptop import stack

    variables = stack.env(configured(home), scanner=scanner)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    show(variables, as_json, lambda: console.raw(lines))


@app.command()
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Check the cluster instead.")] = False,
    context: Context = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check the machine, the stack and the model.

    Each fault comes with its remedy; then the exit code is 1.
    """
    if cluster:
        from lungline.deployment import cluster_doctor
        from lungline.deployment.kubernetes_api import KubernetesApi

        settings = configured(home, kube_context=context)
        runs = settings.kfp_namespace or cluster_doctor.PIPELINES
        checks = list(cluster_doctor.examine(KubernetesApi.connect(settings.kube_context), runs))
    else:
        from laptop.doctor import examine

        checks = examine(configured(home))
    show([asdict(check) for check in checks], as_json, lambda: _show_checks(checks))
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def _show_stack(services: "Iterable[ServiceStatus]", health: "Iterable[Check]" = ()) -> None:
    """Print the services of the stack, one a line, and the checks of their metrics."""
    rows = [(s.name, s.state, s.pid, s.address, s.restarts or "", s.remark) for s in services]
    console.table(("service", "state", "pid", "address", "restarts", "note"), rows)
    for check in health:
        text = check.finding if check.passed else f"{check.finding}. {check.cure}"
        console.say(f"{check.name:>14}  {text}", "" if check.passed else "red")


def _show_checks(results: Iterable[Any]) -> None:
    """Print the checks of `lungline doctor`."""
    rows = [("passed" if c.passed else "failed", c.name, c.finding, c.cure if not c.passed else "") for c in results]
    console.table(("", "check", "finding", "cure"), rows)
