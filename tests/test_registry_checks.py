"""What `lungline doctor` says when somebody changes the registry by hand, with a real MLflow and a real store."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lungline.health_check import Check
from lungline.promotion.promotion import promote
from lungline.registry.checks import check_registry
from lungline.registry.versions import Registry
from lungline.settings import Settings, load_settings
from tests.test_registry import Place, register


@pytest.fixture
def settings(services: dict[str, str], tmp_path: Path) -> Settings:
    name = f"checked-{os.urandom(4).hex()}"
    return load_settings({**services, "model_name": name, "experiment": name, "home": str(tmp_path / "home")})


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def champion(settings: Settings, packages: tuple[Path, Path], tmp_path: Path, place: Place) -> str:
    """The champion, beside an older version."""
    register(settings, packages[0], tmp_path)
    version = register(settings, packages[1], tmp_path)
    promote(version, by="Ada", reason="better", settings=settings, deployment=place)
    return version


def failed(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in check_registry(Registry(settings)) if not check.passed}


def client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.mlflow_uri, settings.mlflow_uri)


def test_a_registry_that_nobody_touched_passes(settings: Settings, champion: str) -> None:
    (check,) = check_registry(Registry(settings))
    assert (check.passed, check.finding) == (True, f"champion is version {champion}")


def test_an_empty_registry_is_healthy_and_stays_empty(settings: Settings) -> None:
    assert list(check_registry(Registry(settings))) == []
    assert client(settings).search_registered_models(f"name='{settings.model_name}'") == []


@pytest.mark.parametrize("change", ["removed", "moved"])
def test_a_changed_alias_is_named_and_its_cure_works(
    change: str, settings: Settings, champion: str, place: Place
) -> None:
    """The cure, promoting the champion again, moves the alias back."""
    mlflow = client(settings)
    if change == "removed":
        mlflow.delete_registered_model_alias(settings.model_name, "champion")
        finding = f"version {champion} serves, but MLflow's alias champion was removed"
    else:
        mlflow.set_registered_model_alias(settings.model_name, "champion", "1")
        finding = f"version {champion} serves, but MLflow's alias champion names version 1"
    check = failed(settings)["mlflow alias"]
    assert (check.finding, check.cure) == (finding, f"lungline promote {champion} --by NAME --reason TEXT")
    promote(champion, by="Ada", reason="alias", settings=settings, deployment=place)
    assert failed(settings) == {}


def test_a_champion_deleted_in_mlflow_is_named(settings: Settings, champion: str, place: Place) -> None:
    client(settings).delete_model_version(settings.model_name, champion)
    check = failed(settings)["mlflow alias"]
    assert check.finding == f"version {champion} serves, but it was deleted in MLflow"
    assert "Promote another version" in check.cure
    promote("1", by="Ada", reason="cure", settings=settings, deployment=place)
    assert "mlflow alias" not in failed(settings)


def test_a_model_deleted_in_mlflow_is_named(settings: Settings, champion: str) -> None:
    client(settings).delete_registered_model(settings.model_name)
    checks = failed(settings)
    assert checks["mlflow alias"].finding == f"version {champion} serves, but it was deleted in MLflow"
    assert checks["version 1"].finding == "deleted in MLflow; its package is still stored"


def test_another_version_deleted_in_mlflow_is_named(settings: Settings, champion: str) -> None:
    """The cure removes what is left of it."""
    client(settings).delete_model_version(settings.model_name, "1")
    checks = failed(settings)
    assert list(checks) == ["version 1"], champion
    assert "aws s3 rm --recursive" in checks["version 1"].cure
    registry = Registry(settings)
    for info in list(registry.storage.list(registry.bucket, f"{registry.name}/1/")):
        registry.storage.delete(registry.bucket, info.key)
    assert failed(settings) == {}


def test_a_package_deleted_from_the_store_is_named(settings: Settings, champion: str) -> None:
    registry = Registry(settings)
    for info in list(registry.storage.list(registry.bucket, f"{registry.name}/{champion}/")):
        registry.storage.delete(registry.bucket, info.key)
    check = failed(settings)[f"version {champion}"]
    assert "has no package" in check.finding
    assert "promote or train another" in check.cure
