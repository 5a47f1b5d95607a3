"""Serve the worklist: `python -m worklist --http_port 8900`."""

import argparse
import logging
import sys

from lungline import logs, tracing
from lungline.connections import BACKLOG
from lungline.errors import LunglineError
from lungline.listening import listen
from lungline.monitoring.gauges import DriftCollector
from lungline.settings import load_settings
from worklist import metrics
from worklist.web.app import WorklistServer, build_app
from worklist.web.context import Worklist


def main() -> int:
    """Serve until stopped; 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="worklist", description="Serve the worklist.")
    parser.add_argument("--http_port", type=int, default=8900)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--metrics_port", type=int, help="Port of the Prometheus endpoint; none by default.")
    arguments = parser.parse_args()
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # logs target URLs, which hold passwords
    try:
        settings = load_settings()
        logs.configure(settings.log_format)
        tracing.configure(settings, "worklist")
        listeners = [listen(arguments.host, arguments.http_port, BACKLOG)]
        app = build_app(settings, address=f"http://{arguments.host}:{arguments.http_port}")
        if arguments.metrics_port:
            _serve_metrics(arguments.host, arguments.metrics_port, app.state.worklist)
    except LunglineError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    WorklistServer(app, arguments.host, arguments.http_port).run(listeners)
    return 0


def _serve_metrics(host: str, port: int, worklist: Worklist) -> None:
    metrics.serve(
        host,
        port,
        metrics.ListCollector(worklist.database, lambda: worklist.live.pages, worklist.losses),
        DriftCollector(worklist.storage, worklist.settings.results_bucket),
    )


if __name__ == "__main__":
    sys.exit(main())
