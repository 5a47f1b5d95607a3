"""What several test modules share, started once for all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from laptop.services.store import running_store
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.package.package import Package
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support import object_store, once
from tests.support.laptop_stack import running_stack
from tests.support.lone_services import running_mlflow
from tests.support.order import long_files_first
from tests.support.predictor import PATIENTS, RESULTS, UPLOADS, Predictor, running_predictor
from tests.support.tiny_package import write_tiny_package

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.worklist_site import Site


BUILT = pytest.StashKey[once.Run | None]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BUILT] = once.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    once.end(config.stash[BUILT])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long_files_first(items)


@pytest.fixture(scope="session")
def services_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of `services`."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def services(services_home: Path) -> Iterator[dict[str, str]]:
    """A real object store and a real MLflow server with its artifacts there, as settings by name."""
    home = services_home
    with (
        running_store(home, load_settings({"home": str(home)})) as stored,
        running_mlflow(home, stored) as settings,
    ):
        Storage.from_settings(settings).ensure_buckets(settings.models_bucket, settings.mlflow_bucket)
        assert settings.s3_access_key
        assert settings.s3_secret_key
        assert settings.mlflow_password
        yield {
            "s3_endpoint": str(settings.s3_endpoint),
            "s3_access_key": settings.s3_access_key.get_secret_value(),
            "s3_secret_key": settings.s3_secret_key.get_secret_value(),
            "mlflow_uri": str(settings.mlflow_uri),
            "mlflow_username": str(settings.mlflow_username),
            "mlflow_password": settings.mlflow_password.get_secret_value(),
        }


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Settings]:
    """The settings of a running laptop stack with a champion, which is unsure of everything."""
    with running_stack(tmp_path_factory.mktemp("stack"), packages[0]) as settings:
        yield settings


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two packages that differ, as training leaves them: without a version. For reading only."""
    folder = tmp_path_factory.mktemp("packages")
    for seed in (1, 2):
        write_tiny_package(folder / str(seed), seed=seed, version=None)
    return folder / "1", folder / "2"


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages that predict differently, in folders named by their versions 1 and 2. For reading only."""
    folder = tmp_path_factory.mktemp("versions")
    write_tiny_package(folder / "1", seed=3, version="1")
    write_tiny_package(folder / "2", seed=4, version="2")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A real object store with the buckets of uploads, results and patients."""
    with object_store.running_store(tmp_path_factory.mktemp("store"), UPLOADS, RESULTS, PATIENTS) as storage:
        yield storage


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A real Chromium without a display."""
    from tests.support.chromium import running_chromium  # Playwright is slow to import, and few tests need it

    with running_chromium() as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path) -> "Iterator[Site]":
    """A worklist without a store."""
    from tests.support.worklist_site import home, running_site  # imports the whole worklist

    with running_site(home(tmp_path)) as site:
        yield site


@pytest.fixture(scope="module")
def predictor(store: Storage, versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A predictor that serves version 1 and reads from `store`."""
    log = tmp_path_factory.mktemp("log") / "predictor.log"
    with running_predictor(versions / "1", store.endpoint, log) as predictor:
        predictor.wait(predictor.ready)
        yield predictor


@pytest.fixture(scope="module")
def diagnoser(versions: Path) -> Diagnoser:
    """What the predictor of version 1 must answer."""
    return Diagnoser(Package.load(versions / "1"))
