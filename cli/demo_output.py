"""How the command line shows the demo: its progress, and its report."""

from collections.abc import Mapping
from typing import Any

from cli import console
from cli.console import DISCLAIMER, say
from cli.result_output import arrival


class DemoOutput:
    """Where the demo shows its progress: `laptop.demo.Console` on this terminal."""

    heading = staticmethod(console.heading)
    notice = staticmethod(console.notice)
    pipeline_event = staticmethod(console.pipeline_event)
    arrival = staticmethod(arrival)


def show_report(report: Mapping[str, Any]) -> None:
    """Print the report of the demo."""
    latency, seconds = report["latency_ms"], report["seconds"]
    say("")
    say(f"Version {report['version']} of the model, trained on {report['data']}, test AUC {report['auc']:.3f}.", "bold")
    say(
        f"{report['results']} of {report['uploads']} uploads have a result; {report['correct']} are on the right side "
        f"of the operating point, {report['unsure']} are in the Unsure band."
    )
    say(f"From upload to saved result: median {latency['p50']:.0f} ms, 99th percentile {latency['p99']:.0f} ms.")
    say(f"Stack {seconds['setup']:.0f} s, training {seconds['train']:.0f} s, everything {seconds['total']:.0f} s.")
    for name, address in report["addresses"].items():
        say(f"{name:18} {address}")
    say(DISCLAIMER, "dim")
