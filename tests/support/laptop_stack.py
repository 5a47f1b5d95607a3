"""A laptop stack with a champion and without MLflow, which would take most of the time to start."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from laptop import stack
from lungline.home import Home
from lungline.settings import Settings

NO_MLFLOW = "http://127.0.0.1:9"
"""Nothing listens there."""


@contextmanager
def running_stack(folder: Path, package: Path, **values: Any) -> Iterator[Settings]:
    """A running stack in which a package serves as version 1; its worklist is not waited for. `values` are settings."""
    settings = with_champion(folder / "home", package, **values)
    stack.up(settings, attached=True)
    try:
        yield settings
    finally:
        stack.down(settings)


def with_champion(home: Path, package: Path, **values: Any) -> Settings:
    """The settings of a stack in whose home a package serves as version 1."""
    champion = Home(home).champion
    shutil.copytree(package, Home(home).package("1"))
    champion.symlink_to(Home(home).package("1").relative_to(champion.parent))
    return Settings.model_validate({"home": home, "mlflow_uri": NO_MLFLOW} | values)


def s3_client(environment: dict[str, str]) -> Any:
    """An S3 client with the variables of `lungline env`."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
