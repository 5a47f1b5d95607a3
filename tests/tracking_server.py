"""A real MLflow server for tests: SQLite, artifacts on the object store."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.object_store import ACCESS_KEY, SECRET_KEY, free_ports


@contextmanager
def running_mlflow(folder: Path, s3_endpoint: str, bucket: str) -> Iterator[str]:
    """The address of a server that answers, until the context ends."""
    (port,) = free_ports(1)
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"s3://{bucket}/"),
    ]
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (
        (folder / "mlflow.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder) as process,
    ):
        try:
            _wait_until_ready(uri, process)
            yield uri
        finally:
            process.terminate()


def _wait_until_ready(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
        else:
            return
