"""Promotion on the laptop: the predictor follows a folder, and promoting writes a package into it."""

import hashlib
import http.client
import json
import os
import time
from pathlib import Path

from lungline.errors import ModelNotReady, PackageError, StackError
from lungline.network import open_url
from lungline.package.card import CARD
from lungline.package.package import Package
from lungline.settings import Settings
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage

SWITCH_SECONDS = 60


class LaptopDeployment:
    """The predictor of the laptop stack, which follows the link `predictor/current` in the stack's home folder."""

    accepts_synthetic: bool = True

    def __init__(self, home: Path, storage: Storage, predictor_uri: str | None, model_name: str) -> None:
        self._folder = home / "predictor"
        self._storage = storage
        self._uri = predictor_uri
        self._model = model_name

    @classmethod
    def from_settings(cls, settings: Settings) -> "LaptopDeployment":
        """The deployment of the stack that the settings name. Raises StackError where there never was a stack."""
        folder = settings.home.absolute() / "predictor"
        if not folder.is_dir():
            # Anywhere else, in a pod for one, a link that no predictor follows would only look like a promotion.
            raise StackError(f"There is no laptop stack in {folder.parent} to serve a model: `lungline up` makes one.")
        storage = Storage.from_settings(settings)
        return cls(settings.home.absolute(), storage, settings.predictor_uri, settings.model_name)

    def deploy(self, package_uri: str, version: str) -> str:
        """Point the predictor to a package and wait until it names the package's version.

        Raises PackageError for a package that does not load, and ModelNotReady when the predictor has not taken it.
        """
        package = self._fetch(package_uri, version)
        before = self._target()
        self._point(version)
        if self._uri is None:
            return f"No predictor is running; version {version} serves from the next `lungline up` on."
        try:
            self._await(self._uri, version, package.sha256)
        except BaseException:
            # Also for Ctrl-C: whatever stops the wait, the version that served must go on serving.
            self._point(before)
            raise
        return f"Version {version} serves at {self._uri}."

    def serving(self) -> str | None:
        """The version that the predictor names; where none answers, the one that it would load."""
        named = _named(self._uri, self._model) if self._uri else None
        return named[0] if named else self._target()

    def _fetch(self, package_uri: str, version: str) -> Package:
        """The package on this disk: the one that is there, if the store has the same, else downloaded."""
        folder = self._folder / "packages" / version
        bucket, prefix = parse_uri(package_uri)
        card = self._storage.get(bucket, f"{prefix.rstrip('/')}/{CARD}").data
        try:
            here = Package.load(folder)
        except PackageError:
            here = None
        # A number says nothing alone: a registry that was reset counts from 1 again.
        if here is None or here.sha256 != hashlib.sha256(card).hexdigest():
            self._storage.download_folder(bucket, prefix, folder)
            here = Package.load(folder)
        return here

    def _target(self) -> str | None:
        link = self._folder / "current"
        return link.readlink().name if link.is_symlink() else None

    def _point(self, version: str | None) -> None:
        link, draft = self._folder / "current", self._folder / f".current-{os.getpid()}"
        if version is None:
            link.unlink(missing_ok=True)
            return
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("packages") / version)
        draft.replace(link)

    def _await(self, uri: str, version: str, sha256: str) -> None:
        deadline = time.monotonic() + SWITCH_SECONDS
        while (named := _named(uri, self._model)) != (version, sha256):
            if time.monotonic() > deadline:
                found = f"it still serves version {named[0]}" if named else "it does not answer"
                raise ModelNotReady(
                    f"The predictor at {uri} has not taken version {version} within {SWITCH_SECONDS} s: {found}."
                )
            time.sleep(0.2)


def _named(uri: str, model: str) -> tuple[str, str] | None:
    """Version and sha256 of the package that a predictor has loaded; None when it does not answer or has none."""
    try:
        with open_url(f"{uri}/v2/models/{model}", timeout=5) as response:
            metadata = json.load(response)
        return str(metadata["versions"][0]), str(metadata["sha256"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
