"""Start the predictor: arguments, settings, wiring."""

import argparse
import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lungline import logs, tracing
from lungline.errors import LunglineError
from lungline.imaging.image import Limits
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from serving.model_loader import ModelLoader

# Most of an upload is waiting for the store; more threads than this only wait for each other.
THREADS = 8


def main() -> int:
    """Serve until SIGTERM; the exit code."""
    # What is imported stays: collecting garbage among it would cost a fifth of the start.
    gc.disable()
    arguments = _arguments()
    try:
        settings = load_settings()
        _configure_logs(settings)
        tracing.configure(settings, "predictor")
    except LunglineError as exc:
        print(exc, file=sys.stderr)
        return 2
    # Loading the package and importing KServe take half a second each: side by side.
    champion = ModelLoader(arguments.model_dir, Limits.from_settings(settings))
    champion.start()

    from serving.endpoints import Endpoints, UploadEvents
    from serving.metrics import ModelCollector
    from serving.model_server import PredictorServer

    deliveries = UploadEvents(
        Storage.from_settings(settings), settings, os.environ.get("CE_TYPE", ""), os.environ.get("CE_SOURCE", "")
    )
    ModelCollector(champion)
    judging = Endpoints(arguments.model_name or settings.model_name, champion, deliveries)
    pool = ThreadPoolExecutor(arguments.threads, "judge")
    # An image as base64 text, and some room for what surrounds it.
    max_body = settings.image_max_bytes * 4 // 3 + 2**20
    server = PredictorServer(judging, pool, arguments.http_host, arguments.http_port, max_body)
    gc.freeze()
    gc.enable()
    server.run()
    champion.stop()
    tracing.end()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving", description="The KServe predictor.", allow_abbrev=False)
    parser.add_argument(
        "--model_dir", type=Path, default=Path("/mnt/models"), help="folder of the model package (%(default)s)"
    )
    parser.add_argument("--model_name", help="name in the addresses (the setting model_name)")
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--http_host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="images judged at once (%(default)s)")
    return parser.parse_args()


def _configure_logs(settings: Settings) -> None:
    """Send all log lines to stderr, as the settings want them."""
    logs.configure(settings.log_format)
    # KServe configures its own loggers when they have no handler; a NullHandler leaves the lines to the root.
    kserve = logging.getLogger("kserve")
    kserve.addHandler(logging.NullHandler())
    kserve.setLevel(logging.WARNING)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A thread that still waits for the store must not keep the process; what it does is done again by a redelivery.
    os._exit(code)
