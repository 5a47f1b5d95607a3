import os
import shutil
import threading
from pathlib import Path

import pytest

from laptop.services.predictor import running_predictor
from lungline.deployment import laptop as laptop_deployment
from lungline.deployment.base import deployment_of
from lungline.deployment.laptop import LaptopDeployment
from lungline.errors import ModelNotReady, ObjectGone, PackageError, StackError
from lungline.package.card import amend_card
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage

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


def test_where_there_never_was_a_stack_nothing_is_deployed(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"home": tmp_path / "pod"})
    with pytest.raises(StackError, match="There is no laptop stack in"):
        deployment_of(elsewhere)
    assert not (tmp_path / "pod").exists()


def test_without_a_predictor_the_version_waits_for_one_and_the_sentence_says_so(
    settings: Settings, stored: dict[str, str]
) -> None:
    place = LaptopDeployment.from_settings(settings)
    assert place.serving() is None
    sentence = place.deploy(stored["101"], "101")
    assert sentence == "No predictor is running; version 101 serves from the next `lungline up` on."
    assert place.serving() == "101"
    link = settings.home / "predictor/current"
    assert link.readlink() == Path("packages/101")
    assert (link / "card.json").exists()


def test_a_running_predictor_takes_each_version_and_names_it(settings: Settings, stored: dict[str, str]) -> None:
    with running_predictor(settings.home, settings) as connected:
        place = LaptopDeployment.from_settings(connected)
        assert place.serving() is None
        for version in ("101", "102", "101"):
            assert place.deploy(stored[version], version) == f"Version {version} serves at {connected.predictor_uri}."
            assert place.serving() == version


def test_a_predictor_that_does_not_answer_leaves_the_old_version_in_place(
    settings: Settings, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    LaptopDeployment.from_settings(settings).deploy(stored["101"], "101")
    monkeypatch.setattr(laptop_deployment, "SWITCH_SECONDS", 0.5)
    away = settings.model_copy(update={"predictor_uri": "http://127.0.0.1:1"})
    place = LaptopDeployment.from_settings(away)
    with pytest.raises(ModelNotReady, match=r"has not taken version 102 within 0\.5 s: it does not answer"):
        place.deploy(stored["102"], "102")
    assert place.serving() == "101"


def test_a_first_deployment_that_fails_leaves_nothing_to_serve(
    settings: Settings, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laptop_deployment, "SWITCH_SECONDS", 0.1)
    place = LaptopDeployment.from_settings(settings.model_copy(update={"predictor_uri": "http://127.0.0.1:1"}))
    with pytest.raises(ModelNotReady):
        place.deploy(stored["101"], "101")
    assert place.serving() is None


def test_a_package_that_is_not_there_or_does_not_load_is_never_pointed_to(
    settings: Settings, stored: dict[str, str], packages: tuple[Path, Path], tmp_path: Path
) -> None:
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


def test_a_package_that_is_here_already_is_checked_against_the_store(
    settings: Settings, stored: dict[str, str], packages: tuple[Path, Path], tmp_path: Path
) -> None:
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


def test_there_is_a_version_to_load_at_every_moment_of_a_switch(settings: Settings, stored: dict[str, str]) -> None:
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
