"""Whether production data still resemble the data that the model was validated on."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import Home, Json, connected, moment_of, path_of, show, writing

if TYPE_CHECKING:
    from lungline.monitoring.findings import MonitoringFindings

app = typer.Typer()

_AGO = re.compile(r"(\d+(?:\.\d+)?)([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
DRIFT = 3  # the exit code of --fail-on-drift; 1 is an error


@app.command()
def monitor(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How far back: 7d, 12h, 30m, or a moment [default: LUNGLINE_MONITOR__LOOKBACK_DAYS]."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=path_of, help="Also write the report to this HTML file.")
    ] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with 3 when the latest window of a version has drifted.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check production data for drift.

    Compares the results of each model version with its validation data and reports what has changed.
    """
    from lungline.monitoring import findings
    from lungline.monitoring.monitor import monitor as run_monitoring
    from lungline.monitoring.report import page
    from lungline.storage.s3 import Storage

    settings = connected(home)
    storage = Storage.from_settings(settings)
    results = run_monitoring(settings, storage, _moment(since) if since is not None else None)
    html = page(results)
    notified = findings.save(storage, settings.results_bucket, results, html)
    if report:
        with writing(report):
            report.write_text(html, encoding="utf-8")
    value = results.model_dump(mode="json") | {"drifted": list(results.drifted), "told": notified}
    show(value, as_json, lambda: _show_findings(results))
    if fail_on_drift and results.drifted:
        raise typer.Exit(DRIFT)


def _show_findings(results: "MonitoringFindings") -> None:
    from lungline.monitoring.findings import unreadable_sentence
    from lungline.wording import count

    if results.unreadable_readings:
        console.say(unreadable_sentence(results.unreadable_readings), "bold")
    if not results.models:
        console.say(f"There are no results since {results.since:%Y-%m-%d %H:%M} UTC.")
    for model in results.models:
        console.say(f"Version {model.version}, {count(model.results, 'result')}: {model.in_a_sentence()}", "bold")
        for window in model.windows[-1:]:
            rows = [
                (name, f"{test.distance:.3f}", f"{test.p:.3f}", "alarm" if test.alarm else "")
                for name, test in window.comparison.tests.items()
            ]
            console.table(("test", "distance", "p", ""), rows)
        if feedback := model.feedback:
            rates = [("sensitivity", feedback.sensitivity), ("specificity", feedback.specificity)]
            console.table((f"by {count(feedback.readings, 'reading')}", "with 95 % interval"), rates)


def _moment(text: str) -> datetime:
    """A moment, or a time before now such as `7d`, `12h` or `30m`."""
    ago = _AGO.fullmatch(text.strip())
    if not ago:
        return moment_of(text)
    try:
        return datetime.now(UTC) - timedelta(**{_UNITS[ago.group(2)]: float(ago.group(1))})
    except OverflowError as exc:
        raise typer.BadParameter(f"{text} is before the first year of the calendar") from exc
