"""What the predictor demands of a package, and how it mends one that is damaged."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lungline.errors import PackageError
from lungline.imaging.image import Limits
from lungline.package.card import CARD, MODEL, Thresholds, amend_card
from lungline.package.expectation import Expectation, write_expectation
from lungline.package.package import Package
from lungline.package.signature import SIGNATURE, sign_package
from lungline.settings import Settings
from lungline.site_key import generate_key
from lungline.storage.s3 import Storage
from serving.model_loader import ModelLoader
from serving.package_guard import PackageGuard
from tests.support.object_store import running_store

BUCKET, KEY = "lungline-models", generate_key()


@pytest.fixture(scope="module")
def stored(versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Storage, Path]]:
    """A store with a signed package, and that package."""
    package = shutil.copytree(versions / "1", tmp_path_factory.mktemp("signed") / "1")
    sign_package(package, KEY)
    with running_store(tmp_path_factory.mktemp("store"), BUCKET) as storage:
        storage.upload_folder(package, BUCKET, "pneumonia/1")
        yield storage, package


class Served:
    """A home's package and the loader of a predictor that follows it."""

    def __init__(self, stored: tuple[Storage, Path], home: Path) -> None:
        storage, package = stored
        self.link = home / "predictor/current"
        self.folder = home / "predictor/packages/1"
        shutil.copytree(package, self.folder)
        self.link.symlink_to(Path("packages/1"))
        self.sha256 = Package.load(package).sha256
        self.expect(Expectation(f"s3://{BUCKET}/pneumonia/1/", self.sha256, signed=True))
        self._fetch = lambda source, folder: storage.download_folder(BUCKET, source.split("/", 3)[3], folder)
        self.fetches = True

    def expect(self, expected: Expectation) -> None:
        """Tell the predictor what to serve."""
        write_expectation(self.link, "1", expected)

    def loader(self) -> ModelLoader:
        """A predictor that starts."""
        guard = PackageGuard(self.link, keys=lambda: (KEY.public,), fetch=self._fetch if self.fetches else None)
        return ModelLoader(self.link, Limits.from_settings(Settings()), guard)


@pytest.fixture
def served(stored: tuple[Storage, Path], tmp_path: Path) -> Served:
    """A package that may serve."""
    return Served(stored, tmp_path)


def flip(path: Path) -> None:
    """Flip a bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def never_pneumonia(folder: Path) -> None:
    """Edit the thresholds, so that every risk is called Normal."""
    amend_card(folder, thresholds=Thresholds(low=1, high=1, operating=1, chosen="An attacker did."))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the network": lambda f: flip(f / MODEL),
    "a flipped bit in the card": lambda f: flip(f / CARD),
    "edited thresholds": never_pneumonia,
    "no network": lambda f: (f / MODEL).unlink(),
    "no card": lambda f: (f / CARD).unlink(),
    "no signature": lambda f: (f / SIGNATURE).unlink(),
    "an empty network": lambda f: (f / MODEL).write_bytes(b""),
    "a foreign file": lambda f: (f / "x").write_text("x"),
    "an empty folder": lambda f: (shutil.rmtree(f), f.mkdir()),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_package_is_fetched_again(damage: str, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """By the predictor itself when it starts, with a sentence in its log."""
    DAMAGES[damage](served.folder)
    loader = served.loader()
    assert loader.refresh(), loader.refuses
    assert loader.current().package.sha256 == served.sha256
    assert loader.signed_by == KEY.public.id
    assert "the package is damaged and fetched again" in caplog.text


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "no folder"])
def test_a_damaged_package_is_refused_without_a_store(damage: str, served: Served) -> None:
    served.fetches = False
    DAMAGES[damage](served.folder)
    loader = served.loader()
    assert not loader.refresh()
    assert not loader.ready


def test_a_running_predictor_mends_what_is_damaged_beneath_it(served: Served) -> None:
    """What is loaded goes on serving meanwhile."""
    loader = served.loader()
    assert loader.refresh()
    flip(served.folder / MODEL)
    assert loader.refresh()
    assert Package.load(served.folder).sha256 == served.sha256


def test_another_package_than_was_promoted_is_refused(served: Served, versions: Path) -> None:
    """Even one that the site has signed: the digest is the history's."""
    shutil.rmtree(served.folder)
    shutil.copytree(versions / "2", served.folder)
    sign_package(served.folder, KEY)
    served.fetches = False
    guard = PackageGuard(served.link, keys=lambda: (KEY.public,))
    with pytest.raises(PackageError, match="package 1 is not the one that was promoted: expected digest"):
        guard.load(served.folder)


def test_a_pod_takes_its_digest_from_the_setting(served: Served, tmp_path: Path) -> None:
    mounted = shutil.copytree(served.folder, tmp_path / "models")
    keys = lambda: (KEY.public,)  # noqa: E731
    package, signed_by = PackageGuard(mounted, sha256=served.sha256, keys=keys).load(mounted)
    assert (package.sha256, signed_by) == (served.sha256, KEY.public.id)
    with pytest.raises(PackageError, match="not the one that was promoted"):
        PackageGuard(mounted, sha256="0" * 64, keys=keys).load(mounted)


def test_a_package_of_an_earlier_release_serves_and_says_it(
    versions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has said what to expect, and it has no signature."""
    folder = shutil.copytree(versions / "1", tmp_path / "packages/1")
    (tmp_path / "current").symlink_to(folder)
    guard = PackageGuard(tmp_path / "current", keys=lambda: (KEY.public,))
    loader = ModelLoader(tmp_path / "current", Limits.from_settings(Settings()), guard)
    assert loader.refresh()
    assert loader.signed_by is None
    assert "the model is not signed" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": 1, "sha256": "x", "signed": true}', "noise"])
def test_a_damaged_order_is_no_permission(served: Served, text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    (served.link.parent / "expected/1.json").write_text(text)
    loader = served.loader()
    assert not loader.refresh()
    assert "does not say what to serve" in caplog.text
