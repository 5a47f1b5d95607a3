"""A real object store for tests: SeaweedFS on free ports, with credentials that are enforced."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from pydantic import SecretStr

from lungline.errors import LunglineError
from lungline.settings import Settings
from lungline.storage.s3 import Storage

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret"


def s3_client(settings: Settings) -> Any:
    """A plain S3 client of the store that settings name, as anybody may have one."""
    assert settings.s3_access_key
    assert settings.s3_secret_key
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )


@contextmanager
def running_store(folder: Path, *buckets: str) -> Iterator[Storage]:
    """A store that holds these buckets, until the context ends."""
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "tests", "credentials": credentials, "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    s3, master, volume, filer, admin = free_ports(5)
    command = [
        *(str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", f"-s3.config={folder}/s3.json"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}"),
        *(f"-filer.port={filer}", f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"),
        *("-admin.ui=false", "-master.telemetry=false"),
    ]
    storage = Storage(f"http://127.0.0.1:{s3}", access_key=SecretStr(ACCESS_KEY), secret_key=SecretStr(SECRET_KEY))
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait_until_ready(storage, buckets)
            yield storage
        finally:
            storage.close()
            process.kill()  # nothing here is worth its 12 seconds of an orderly end


def _wait_until_ready(storage: Storage, buckets: tuple[str, ...]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            storage.ensure_buckets(*buckets)
            storage.put(buckets[0], "ready", b"ready")
        except LunglineError:
            if time.monotonic() > deadline:
                raise
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports that are free together with the port 10,000 above, where SeaweedFS puts gRPC."""
    ports: list[int] = []
    sockets: list[socket.socket] = []
    while len(ports) < count:
        low, high = socket.socket(), socket.socket()
        sockets += [low, high]
        low.bind(("127.0.0.1", 0))
        port = low.getsockname()[1]
        try:
            high.bind(("127.0.0.1", port + 10_000))
        except (OSError, OverflowError):
            continue
        ports.append(port)
    for reserved in sockets:
        reserved.close()
    return ports
