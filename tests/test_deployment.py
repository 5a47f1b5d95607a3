import os
import shutil
import threading
from pathlib import Path

import pytest

from lungline.deployment.base import deployment_of
from lungline.deployment.laptop import LaptopDeployment
from lungline.errors import ModelNotReady, ObjectGone, PackageError, StackError
from lungline.home import Home
from lungline.package.card import amend_card
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support.lone_services import running_predictor

BUCKET = "lungline-models"


@pytest.fixture
def settings(services: dict[str, str], tmp_path: Path) -> Settings:
    (tmp_path / "home/predictor").mkdir(parents=True)
    return load_settings({**services, "home": str(tmp_path / "home")})


@pytest.fixture(scope="module")
def stored(
    services: dict[str, str], packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Addresses of stored packages by version."""
    folder = tmp_path_factory.mktemp("stored")
    storage = Storage.from_settings(load_settings(services))
    for version, package in zip(("101", "102"), packages, strict=True):
        storage.upload_folder(versioned(package, folder / version, version), BUCKET, f"pneumonia/{version}")
    return {version: f"s3://{BUCKET}/pneumonia/{version}/" for version in ("101", "102")}


def versioned(package: Path, folder: Path, version: str) -> Path:
    shutil.copytree(package, folder)
    amend_card(folder, version=version)
    return folder


def without_an_answer(settings: Settings, seconds: float) -> LaptopDeployment:
    """A deployment whose predictor does not answer."""
    storage = Storage.from_settings(settings)
    return LaptopDeployment(Home(settings.home), storage, "http://127.0.0.1:1", settings.model_name, seconds)


def test_where_there_never_was_a_stack_nothing_is_deployed(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"home": tmp_path / "pod"})
    with pytest.raises(StackError, match="There is no laptop stack in"):
        deployment_of(elsewhere)
    assert not (tmp_path / "pod").exists()


def test_without_a_predictor_the_version_waits(settings: Settings, stored: dict[str, str]) -> None:
    """Without a predictor the version waits for one and the sentence says so."""
    place = LaptopDeployment.from_settings(settings)
    assert place.serving() is None
    sentence = place.deploy(stored["101"], "101")
    assert sentence == "No predictor is running; version 101 serves from the next `lungline up` on."
    assert place.serving() == "101"
    link = settings.home / "predictor/current"
    assert link.readlink() == Path("packages/101")
    assert (link / "card.json").exists()


def test_a_home_serves_a_task_with_one_model(settings: Settings, stored: dict[str, str]) -> None:
    """Nothing would say which of two models of a task judges an upload."""
    LaptopDeployment.from_settings(settings).deploy(stored["101"], "101")
    other = LaptopDeployment.from_settings(settings.model_copy(update={"model_name": "pneumonia-kind"}))
    with pytest.raises(StackError, match="with the model pneumonia; give the model pneumonia-kind a home of its own"):
        other.deploy(stored["102"], "102")
    assert LaptopDeployment.from_settings(settings).serving() == "101"


def test_a_running_predictor_takes_each_version_and_names_it(settings: Settings, stored: dict[str, str]) -> None:
    with running_predictor(settings.home, settings) as connected:
        place = LaptopDeployment.from_settings(connected)
        assert place.serving() is None
        for version in ("101", "102", "101"):
            assert place.deploy(stored[version], version) == f"Version {version} serves at {connected.predictor_uri}."
            assert place.serving() == version


def test_a_silent_predictor_keeps_the_old_version(settings: Settings, stored: dict[str, str]) -> None:
    """A predictor that does not answer leaves the old version in place."""
    LaptopDeployment.from_settings(settings).deploy(stored["101"], "101")
    place = without_an_answer(settings, 0.5)
    with pytest.raises(ModelNotReady, match=r"did not load version 102 within 0\.5 s: it does not answer"):
        place.deploy(stored["102"], "102")
    assert place.serving() == "101"


def test_a_first_deployment_that_fails_leaves_nothing_to_serve(settings: Settings, stored: dict[str, str]) -> None:
    place = without_an_answer(settings, 0.1)
    with pytest.raises(ModelNotReady):
        place.deploy(stored["101"], "101")
    assert place.serving() is None


def test_a_missing_or_damaged_package_is_never_linked(
    settings: Settings, stored: dict[str, str], packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """A package that is not there or does not load is never pointed to."""
    place = LaptopDeployment.from_settings(settings)
    place.deploy(stored["101"], "101")
    with pytest.raises(ObjectGone):
        place.deploy(f"s3://{BUCKET}/pneumonia/999/", "999")
    broken = versioned(packages[0], tmp_path / "broken", "103")
    (broken / "model.tflite").write_bytes(b"damage")
    Storage.from_settings(settings).upload_folder(broken, BUCKET, "pneumonia/103")
    with pytest.raises(PackageError, match="damaged"):
        place.deploy(f"s3://{BUCKET}/pneumonia/103/", "103")
    assert place.serving() == "101"


def test_a_local_package_is_compared_with_the_store(
    settings: Settings, stored: dict[str, str], packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """A package that is here already is checked against the store."""
    place = LaptopDeployment.from_settings(settings)
    place.deploy(stored["101"], "101")
    card = settings.home / "predictor/packages/101/card.json"
    before = card.stat().st_ino
    place.deploy(stored["101"], "101")
    assert card.stat().st_ino == before, "the same package is not fetched again"
    (settings.home / "predictor/packages/101/model.tflite").write_bytes(b"damage on this disk")
    place.deploy(stored["101"], "101")
    assert card.stat().st_ino != before
    other = versioned(packages[1], tmp_path / "other", "101")
    Storage.from_settings(settings).upload_folder(other, BUCKET, "reset/101")
    place.deploy(f"s3://{BUCKET}/reset/101/", "101")
    assert card.read_bytes() == (other / "card.json").read_bytes()


def test_a_version_is_linked_throughout_a_switch(settings: Settings, stored: dict[str, str]) -> None:
    """There is a version to load at every moment of a switch."""
    place = LaptopDeployment.from_settings(settings)
    place.deploy(stored["101"], "101")
    link, missing, stop = settings.home / "predictor/current/card.json", 0, threading.Event()

    def look() -> None:
        nonlocal missing
        while not stop.is_set():
            missing += not os.path.exists(link)  # noqa: PTH110 - as often as possible

    watcher = threading.Thread(target=look)
    watcher.start()
    for version in ("102", "101") * 5:
        place.deploy(stored[version], version)
    stop.set()
    watcher.join()
    assert missing == 0
