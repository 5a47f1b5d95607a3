"""Deployment on the laptop: the predictor follows a folder, into which a promotion writes the package."""

import contextlib
import hashlib
import http.client
import json
import time
from pathlib import Path
from typing import Any, cast

from lungline.deployment.release import Release
from lungline.errors import LunglineError, ModelNotReady, PackageError, StackError
from lungline.home import Home, ModelFolder, read_json, sync_folder, write_json
from lungline.network import open_url
from lungline.package.card import CARD, Card, read_card
from lungline.package.expectation import Expectation, write_expectation
from lungline.package.package import Package
from lungline.package.signature import is_signed
from lungline.settings import Settings
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage

SWITCH_SECONDS = 60


def served_models(home: Home) -> list[str]:
    """The names of the models that serve in a home, the first before the further ones."""
    cards = map(_card, (home.first_model, *home.further_models()))
    return [card.name for card in cards if card]


def require_model(home: Home, model: str, task: str) -> None:
    """Raise StackError where a home serves another model of the same task: nothing would tell their uploads apart."""
    for served in (home.first_model, *home.further_models()):
        card = _card(served)
        if card and card.name != model and card.task.name == task:
            raise StackError(
                f"The stack in {home.path} serves the task {task} with the model {card.name}; give the model {model} "
                f"a home of its own, such as --home .lungline-{model}."
            )


def folder_of(home: Home, model: str) -> ModelFolder:
    """Where a home keeps a model: the first that serves has the folder of the predictor itself, as in earlier homes."""
    own = ModelFolder(home.models / model)
    return own if own.path.is_dir() or not is_first(home, model) else home.first_model


def is_first(home: Home, model: str) -> bool:
    """Whether a model is the one that served first in a home, or would be."""
    if card := _card(home.first_model):
        return card.name == model
    # Damaged, or nothing serves: anchors are in the order of the first promotions.
    return next(iter(_remembered(home)), model) == model


def _card(folder: ModelFolder) -> Card | None:
    """The card of the package that serves; None without one, and for a damaged one, which a promotion repairs."""
    with contextlib.suppress(PackageError, OSError):
        return read_card(folder.champion)[0] if folder.champion.is_symlink() else None
    return None


def _remembered(home: Home) -> dict[str, str]:
    """Anchors by the model's name; empty where the file was lost, which `lungline history` then says."""
    value: Any = read_json(_anchors(home))
    anchors = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    return {name: anchor for name, anchor in anchors.items() if isinstance(anchor, str)}


def _anchors(home: Home) -> Path:
    return home.file("predictor", "history.json")


class LaptopDeployment:
    """The predictor of the laptop stack; it follows a link `current` for each model in the home folder."""

    accepts_synthetic: bool = True

    def __init__(
        self,
        home: Home,
        storage: Storage,
        predictor_uri: str | None,
        model_name: str,
        switch_seconds: float = SWITCH_SECONDS,
    ) -> None:
        self._home = home
        self._folder = folder_of(home, model_name)
        self._storage = storage
        self._uri = predictor_uri
        self._model = model_name
        self._switch_seconds = switch_seconds

    @classmethod
    def from_settings(cls, settings: Settings) -> "LaptopDeployment":
        """The deployment in the settings' home folder. Raises StackError when no stack was ever started there."""
        home = Home(settings.home.absolute())
        if not home.champion.parent.is_dir():
            # Elsewhere, such as in a pod, no predictor would follow the link.
            raise StackError(f"There is no laptop stack in {home.path} to serve a model: `lungline up` creates one.")
        storage = Storage.from_settings(settings)
        return cls(home, storage, settings.predictor_uri, settings.model_name)

    def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
        """Point the predictor to a package and wait until it reports the package's version.

        Raises PackageError for a package that does not load, ModelNotReady when the predictor does not load it, and
        StackError where the home serves another model of its task.
        """
        package = self._fetch(package_uri, version, release)
        require_model(self._home, self._model, package.card.task.name)
        before = self._target()
        # The predictor reads what to expect with the package: told first, it refuses nothing that it should serve.
        expected = Expectation(package_uri, package.sha256, signed=bool(release and release.signed))
        write_expectation(self._folder.champion, version, expected)
        self._point(version)
        if self._uri is None:
            return f"No predictor is running; version {version} serves from the next `lungline up` on."
        try:
            self._await(self._uri, version, package.sha256)
        except BaseException:
            # Also for Ctrl-C: the previous version must keep serving.
            self._point(before)
            raise
        return f"Version {version} serves at {self._uri}."

    def serving(self) -> str | None:
        """The version that the predictor reports; without an answer, the version that it would load."""
        loaded = _loaded(self._uri, self._model) if self._uri else None
        return loaded[0] if loaded else self._target()

    def intact(self, version: str, sha256: str) -> bool:
        """Whether a version serves, from files that are undamaged."""
        try:
            package = Package.load(self._folder.package(version))
        except (LunglineError, OSError):
            return False
        loaded = _loaded(self._uri, self._model) if self._uri else None
        return package.sha256 == sha256 and (loaded == (version, sha256) if loaded else self._target() == version)

    def loaded_sha256(self) -> str | None:
        """The digest of the package that the predictor has loaded; None without an answer."""
        loaded = _loaded(self._uri, self._model) if self._uri else None
        return loaded and loaded[1]

    def anchor(self) -> str | None:
        """The entry of the promotion history that the home remembers."""
        return _remembered(self._home).get(self._model)

    def keep_anchor(self, anchor: str) -> None:
        """Remember an entry of the promotion history in the home."""
        write_json(_anchors(self._home), _remembered(self._home) | {self._model: anchor}, durable=True)

    def _fetch(self, package_uri: str, version: str, release: Release | None) -> Package:
        """The package in the home folder, downloaded unless it is the same as in the store."""
        folder = self._folder.package(version)
        bucket, prefix = parse_uri(package_uri)
        card = self._storage.get(bucket, f"{prefix.rstrip('/')}/{CARD}").data
        signed = bool(release and release.signed)
        package = None
        with contextlib.suppress(PackageError, OSError):
            package = Package.load(folder)
        # The version alone is not enough: a registry that was reset counts from 1 again.
        stale = package is None or package.sha256 != hashlib.sha256(card).hexdigest()
        if package is None or stale or (signed and not is_signed(folder)):
            self._storage.download_folder(bucket, prefix, folder)
            package = Package.load(folder)
        if release and package.sha256 != release.sha256:
            raise PackageError(f"The package at {package_uri} is not the one that was promoted.")
        return package

    def _target(self) -> str | None:
        link = self._folder.champion
        return link.readlink().name if link.is_symlink() else None

    def _point(self, version: str | None) -> None:
        link = self._folder.champion
        if version is None:
            link.unlink(missing_ok=True)
            return
        self._folder.point(version)
        for folder in link.parents[: len(link.relative_to(self._home.path).parts) - 1]:
            sync_folder(folder)  # the folders of a further model may be new

    def _await(self, uri: str, version: str, sha256: str) -> None:
        deadline = time.monotonic() + self._switch_seconds
        while (loaded := _loaded(uri, self._model)) != (version, sha256):
            if time.monotonic() > deadline:
                state = f"it still serves version {loaded[0]}" if loaded else "it does not answer"
                raise ModelNotReady(
                    f"The predictor at {uri} did not load version {version} within {self._switch_seconds:g} s: {state}."
                )
            time.sleep(0.2)


def _loaded(uri: str, model: str) -> tuple[str, str] | None:
    """Version and sha256 of the package that a predictor has loaded; None without an answer or a package."""
    try:
        with open_url(f"{uri}/v2/models/{model}", timeout=5) as response:
            metadata = json.load(response)
        return str(metadata["versions"][0]), str(metadata["sha256"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
