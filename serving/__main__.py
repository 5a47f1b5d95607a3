"""Start the predictor: arguments, settings, wiring."""

import argparse
import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lungline import program, tracing
from lungline.diagnosis.image_rules import load_image_rules
from lungline.imaging.image import Limits
from lungline.memory import budget_of_process
from lungline.results.opinions import PURPOSES
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.folder import TaskFolder
from serving.beside import Beside
from serving.kserve_imports import without_pydantic_1
from serving.model_loader import ModelLoader
from serving.package_guard import PackageGuard
from serving.served_models import ServedModels

# Most of an upload is waiting for the store; more threads than this only wait for each other.
THREADS = 8
# An image that came with its request waits for nothing: with one thread more than cores, a core is free for the next
# while a thread hands over, and more threads only take turns with Python's lock.
IMAGE_THREADS = (os.cpu_count() or 1) + 1
# The rest of a pod's 1 GiB: 0.2 GiB without any work, and as much for what a budget cannot count.
MEMORY_SHARE = 0.55


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    arguments = _arguments()
    settings = settings.model_copy(update={"purpose": arguments.purpose or settings.purpose})
    load_image_rules(settings.image_rules)  # a wrong file ends the start, not every upload
    _silence_kserve()
    without_pydantic_1()
    # Loading the package and importing KServe take half a second each: side by side.
    memory = budget_of_process(MEMORY_SHARE)
    limits = Limits.from_settings(settings, memory)

    def load(link: Path) -> ModelLoader:
        return ModelLoader(link, limits, PackageGuard.from_settings(link, settings))

    name = model_of(arguments.model_name, settings)
    # Others only take what is handed on to them, so that no upload goes round in circles.
    further = settings.further_tasks if name == settings.model_name else None
    elsewhere = TaskFolder(further).tasks if further else tuple
    beside = Beside(arguments.beside) if arguments.beside else None
    models = ServedModels(name, load(arguments.model_dir), arguments.more_models, load, elsewhere, beside=beside)
    models.start()

    from lungline.deidentification.background import BackgroundCopies
    from lungline.results.listing import SharedListing
    from serving.app import Pools
    from serving.endpoints import Endpoints, UploadEvents
    from serving.metrics import ModelCollector
    from serving.model_server import PredictorServer

    storage = Storage.from_settings(settings)
    copies = BackgroundCopies(storage, settings, limits)
    copies.start()
    kind, source = os.environ.get("CE_TYPE", ""), os.environ.get("CE_SOURCE", "")
    listing = SharedListing(storage, settings.results_bucket, ThreadPoolExecutor(arguments.threads, "listing"))
    upload_events = UploadEvents(storage, settings, kind, source, copies.later, listing)
    ModelCollector(models)
    endpoints = Endpoints(models, upload_events)
    image_threads = min(arguments.threads, IMAGE_THREADS)
    pools = Pools(ThreadPoolExecutor(arguments.threads, "predict"), ThreadPoolExecutor(image_threads, "image"))
    # An image as base64 text, and some room for what surrounds it.
    max_body = settings.image_max_bytes * 4 // 3 + 2**20
    server = PredictorServer(endpoints, pools, (arguments.http_host, arguments.http_port), max_body, memory)
    gc.freeze()
    gc.enable()
    server.run()
    models.stop()
    tracing.end()


def model_of(service: str | None, settings: Settings) -> str:
    """The model of an InferenceService; a second opinion has one of its own, whose name ends with what it is for."""
    if settings.purpose == "answer":
        return service or settings.model_name
    name, _, end = (service or "").rpartition("-")
    return name if end in {"shadow", "rejudge"} and name else settings.model_name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving", description="The KServe predictor.", allow_abbrev=False)
    parser.add_argument(
        "--model_dir", type=Path, default=Path("/mnt/models"), help="folder of the model package (%(default)s)"
    )
    parser.add_argument("--more_models", type=Path, help="folder of further models, each with a link `current`")
    parser.add_argument("--beside", type=Path, help="home of the stack beside whose models it gives second opinions")
    parser.add_argument("--model_name", help="model name in the paths (the setting model_name)")
    parser.add_argument("--purpose", choices=("answer", *PURPOSES), help="what results are (the setting purpose)")
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--http_host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="uploads in work at once (%(default)s)")
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
