"""Whether the field has moved away from what the model was validated on."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import Home, Json, connected, moment_of, show

if TYPE_CHECKING:
    from lungline.monitoring.findings import MonitoringFindings

app = typer.Typer()

_AGO = re.compile(r"(\d+(?:\.\d+)?)([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
DRIFTED = 3  # the exit code of --fail-on-drift; 1 is a refusal


@app.command()
def monitor(
    since: Annotated[
        str | None, typer.Option(help="How far back: 7d, 12h, 30m, or a moment [default: monitor.lookback_days].")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the page to this HTML file.")] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit with 3 when the latest results of a version differ.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare the results of the field with the reference of each model, and say what has changed."""
    from lungline.monitoring import findings
    from lungline.monitoring.monitor import monitor as look
    from lungline.monitoring.report import page
    from lungline.storage.s3 import Storage

    settings = connected(home)
    storage = Storage.from_settings(settings)
    found = look(settings, storage, _moment(since) if since else None)
    text = page(found)
    told = findings.save(storage, settings.results_bucket, found, text)
    if report:
        report.write_text(text, encoding="utf-8")
    value = found.model_dump(mode="json") | {"drifted": list(found.drifted), "told": told}
    show(value, as_json, lambda: _in_words(found))
    if fail_on_drift and found.drifted:
        raise typer.Exit(DRIFTED)


def _in_words(found: "MonitoringFindings") -> None:
    from lungline.monitoring.findings import unreadable_sentence

    if found.unreadable_readings:
        console.say(unreadable_sentence(found.unreadable_readings), "bold")
    if not found.models:
        console.say(f"There are no results since {found.since:%Y-%m-%d %H:%M} UTC.")
    for model in found.models:
        console.say(f"Version {model.version}, {model.results} results: {model.in_a_sentence()}", "bold")
        for window in model.windows[-1:]:
            tests = window.comparison.tests.items()
            rows = [(name, f"{one.distance:.3f}", f"{one.p:.3f}", "alarm" if one.alarm else "") for name, one in tests]
            console.table(("test", "distance", "p", ""), rows)
        if model.feedback:
            told = model.feedback
            rows = [("sensitivity", told.sensitivity), ("specificity", told.specificity)]
            console.table((f"by {told.readings} readings", "with 95 % interval"), rows)


def _moment(text: str) -> datetime:
    """A moment, or as long ago as `7d`, `12h` or `30m` say."""
    ago = _AGO.fullmatch(text.strip())
    if not ago:
        return moment_of(text)
    return datetime.now(UTC) - timedelta(**{_UNITS[ago.group(2)]: float(ago.group(1))})
