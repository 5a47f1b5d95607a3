"""What several test modules share, started once for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop.services.mlflow import running_mlflow
from laptop.services.store import running_store
from lungline.settings import load_settings
from lungline.storage.s3 import Storage
from tests.support.tiny_package import write_tiny_package


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real object store and a real MLflow server with its artifacts there, as settings by name."""
    home = tmp_path_factory.mktemp("services")
    with (
        running_store(home, load_settings({"home": str(home)})) as stored,
        running_mlflow(home, stored) as settings,
    ):
        Storage.from_settings(settings).ensure_buckets(settings.models_bucket, settings.mlflow_bucket)
        assert settings.s3_access_key
        assert settings.s3_secret_key
        yield {
            "s3_endpoint": str(settings.s3_endpoint),
            "s3_access_key": settings.s3_access_key.get_secret_value(),
            "s3_secret_key": settings.s3_secret_key.get_secret_value(),
            "mlflow_uri": str(settings.mlflow_uri),
        }


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two packages that differ, as training leaves them: without a version. For reading only."""
    folder = tmp_path_factory.mktemp("packages")
    for seed in (1, 2):
        write_tiny_package(folder / str(seed), seed=seed, version=None)
    return folder / "1", folder / "2"
