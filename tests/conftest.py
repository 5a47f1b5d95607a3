"""What several test modules share, started once for all of them."""

from collections.abc import Iterator

import pytest

from tests.object_store import ACCESS_KEY, SECRET_KEY, running_store
from tests.tracking_server import running_mlflow


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real object store and a real MLflow server with its artifacts there, as settings by name."""
    folder = tmp_path_factory.mktemp("services")
    with (
        running_store(folder, "lungline-models", "lungline-mlflow") as storage,
        running_mlflow(folder, str(storage.endpoint), "lungline-mlflow") as uri,
    ):
        yield {
            "s3_endpoint": str(storage.endpoint),
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
            "mlflow_uri": uri,
        }
