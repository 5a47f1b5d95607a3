"""A running predictor for tests, and the requests that are sent to it."""

import base64
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lungline.datasets.phantom import jpeg
from lungline.events.uploads import Upload, minio_record
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, free_ports

UPLOADS, RESULTS, PATIENTS = Settings().uploads_bucket, Settings().results_bucket, Settings().patients_bucket
PREDICT, INFER, METADATA = "/v1/models/pneumonia:predict", "/v2/models/pneumonia/infer", "/v2/models/pneumonia"
KNATIVE = {
    "ce-specversion": "1.0",
    "ce-id": "partition:0/offset:7",
    "ce-source": "/apis/v1/namespaces/lungline/kafkasources/xray-uploads#xray-uploads",
    "ce-type": "dev.knative.kafka.event",
    "ce-subject": "partition:0#7",
}
IMAGE = jpeg(1, opacities=True)


@dataclass(frozen=True, slots=True)
class Predictor:
    """A predictor's process, a client of it, and its log."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()

    def status(self, path: str) -> int | None:
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return None

    def ready(self) -> bool:
        return self.status("/v2/health/ready") == 200

    def version(self) -> str:
        return self.http.get(METADATA).json()["versions"][0]


@contextmanager
def running_predictor(folder: Path, endpoint: str | None, log: Path, *arguments: str) -> Iterator[Predictor]:
    """A predictor of the package in a folder, with the store at `endpoint`; it answers, perhaps without a model yet."""
    (port,) = free_ports(1)
    environment = os.environ | {
        "LUNGLINE_S3_ENDPOINT": endpoint or "",
        "LUNGLINE_S3_ACCESS_KEY": ACCESS_KEY,
        "LUNGLINE_S3_SECRET_KEY": SECRET_KEY,
        "LUNGLINE_IMAGE_MAX_BYTES": "1000000",
        "LUNGLINE_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "serving", "--model_dir", str(folder), "--http_port", str(port), *arguments]
    limits = httpx.Limits(max_connections=None)
    with (
        log.open("wb") as stream,
        subprocess.Popen(command, stdout=stream, stderr=stream, env=environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as http,
    ):
        predictor = Predictor(process, http, log)
        try:
            predictor.wait(lambda: predictor.status("/") == 200)
            yield predictor
        finally:
            process.kill()


def b64(data: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(data).decode()


def put(store: Storage, data: bytes = IMAGE, key: str | None = None) -> Upload:
    """Put an object, by default an X-ray under a key that names a patient."""
    key = key or f"ward 7/Doe-Jane/Ünïcode + 100%/{uuid.uuid4()}.jpeg"
    return Upload(UPLOADS, key, etag=store.put(UPLOADS, key, data), sequencer="1")


def event(*uploads: Upload) -> dict[str, Any]:
    """The event of these uploads, as MinIO sends it."""
    return {"Records": [record for upload in uploads for record in minio_record(upload)["Records"]]}


def deliver(predictor: Predictor, *uploads: Upload) -> httpx.Response:
    """Post the event of these uploads, as Knative does."""
    return predictor.http.post(PREDICT, json=event(*uploads), headers=KNATIVE)
