"""Start the predictor: arguments, settings, wiring."""

import argparse
import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lungline import program, tracing
from lungline.imaging.image import Limits
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from serving.model_loader import ModelLoader

# Most of an upload is waiting for the store; more threads than this only wait for each other.
THREADS = 8


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    arguments = _arguments()
    _silence_kserve()
    # Loading the package and importing KServe take half a second each: side by side.
    loader = ModelLoader(arguments.model_dir, Limits.from_settings(settings))
    loader.start()

    from serving.endpoints import Endpoints, UploadEvents
    from serving.metrics import ModelCollector
    from serving.model_server import PredictorServer

    upload_events = UploadEvents(
        Storage.from_settings(settings), settings, os.environ.get("CE_TYPE", ""), os.environ.get("CE_SOURCE", "")
    )
    ModelCollector(loader)
    endpoints = Endpoints(arguments.model_name or settings.model_name, loader, upload_events)
    pool = ThreadPoolExecutor(arguments.threads, "predict")
    # An image as base64 text, and some room for what surrounds it.
    max_body = settings.image_max_bytes * 4 // 3 + 2**20
    server = PredictorServer(endpoints, pool, arguments.http_host, arguments.http_port, max_body)
    gc.freeze()
    gc.enable()
    server.run()
    loader.stop()
    tracing.end()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving", description="The KServe predictor.", allow_abbrev=False)
    parser.add_argument(
        "--model_dir", type=Path, default=Path("/mnt/models"), help="folder of the model package (%(default)s)"
    )
    parser.add_argument("--model_name", help="model name in the paths (the setting model_name)")
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--http_host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="images predicted at once (%(default)s)")
    return parser.parse_args()


def _silence_kserve() -> None:
    """Send KServe's log lines to the root logger; it configures its own loggers when they have no handler."""
    kserve = logging.getLogger("kserve")
    kserve.addHandler(logging.NullHandler())
    kserve.setLevel(logging.WARNING)


if __name__ == "__main__":
    # What is imported stays: collecting garbage among it would cost a fifth of the start.
    gc.disable()
    program.run("predictor", main)
    sys.stdout.flush()
    # A thread that still waits for the store must not keep the process; a redelivery repeats what it does.
    os._exit(0)
