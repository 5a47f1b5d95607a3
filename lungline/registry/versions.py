"""The model registry: versions in MLflow, their packages in the models bucket.

A version's number comes from MLflow; its package lies at `s3://{models_bucket}/{model_name}/{version}/` and never
changes: card.json is written last and only where there is none, so a half-written package is no package. Which version
is in service is the history's to say (`lungline.registry.history`); the alias `champion` follows it.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungline.errors import ObjectGone, PackageError, RegistryError, RegistryUnavailable
from lungline.package.card import CARD, GateFacts
from lungline.package.package import Package
from lungline.package.signature import SIGNATURE, is_signed, sign_package, verify_package
from lungline.registry.history import History, PromotionEntry
from lungline.registry.mlflow_client import connect, translated
from lungline.registry.registered_model import CHALLENGER, CHAMPION, aliases, registered_model
from lungline.registry.tracking import gate_facts
from lungline.registry.verification import MLFLOW, Anchor, VerifiedHistory, verify
from lungline.settings import Settings
from lungline.site_key import PublicKey, parse_public_keys, site_key, trust_keys, trusted_keys
from lungline.storage.s3 import Storage

if TYPE_CHECKING:
    pass

ANCHOR = "history"
"""Tag of the registered model that holds the history's last entry, outside the store that holds the history."""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version, as `lungline models` lists it."""

    version: str
    aliases: tuple[str, ...]
    registered: datetime
    package: str
    mlflow_run: str
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on drawn phantoms."""
        return self.tags.get("synthetic") == "true"


class Registry:
    """The registry that the settings name.

    Every call raises RegistryUnavailable or StorageUnavailable when MLflow or the object store does not answer.
    """

    def __init__(self, settings: Settings, storage: Storage | None = None) -> None:
        self.settings = settings
        self.name = settings.model_name
        self.bucket = settings.models_bucket
        self.storage = storage or Storage.from_settings(settings)
        self.history = History(self.storage, self.bucket, self.name)

    def resolve(self, name: str | None) -> str:
        """The version that a person means: a number, `champion`, or `challenger` (also for None)."""
        if name == CHAMPION:
            version = self.champion()
        elif name in (None, CHALLENGER):
            version = self.challenger()
        else:
            version = name.removeprefix("v") if name else None
            if not (version and version.isdigit() and self.has_package(version)):
                raise RegistryError(f"There is no version {name} of {self.name}; `lungline models` lists the versions.")
        if version is None:
            raise RegistryError(f"There is no {name or CHALLENGER} of {self.name} yet; `lungline train` registers one.")
        return version

    def champion(self) -> str | None:
        """The version in service."""
        return self.history.champion()

    def challenger(self) -> str | None:
        """The last version that was registered and not promoted since."""
        with translated(self.settings):
            return aliases(connect(self.settings), self.name).get(CHALLENGER)

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with translated(self.settings):
            client = connect(self.settings)
            named = aliases(client, self.name)
            entries = client.search_model_versions(f"name='{self.name}'")
        versions = [_version(entry, named, self.package_uri(str(entry.version))) for entry in entries]
        return sorted(versions, key=lambda version: int(version.version), reverse=True)

    def package_uri(self, version: str) -> str:
        """Where the package of a version lies."""
        return f"s3://{self.bucket}/{self.name}/{version}/"

    def has_package(self, version: str) -> bool:
        """Whether the package of a version is stored."""
        return self.storage.exists(self.bucket, f"{self.name}/{version}/{CARD}")

    def fetch(self, version: str, folder: Path) -> Package:
        """Download the package of a version into a folder and load it. Raises PackageError when it is damaged."""
        try:
            self.storage.download_folder(self.bucket, f"{self.name}/{version}", folder)
        except ObjectGone as exc:
            raise RegistryError(f"The package of version {version} is not at {self.package_uri(version)}.") from exc
        package = Package.load(folder)
        if package.card.version != version:
            raise PackageError(f"The package at {self.package_uri(version)} says that it is {package.card.version}.")
        return package

    def noted(self, version: str) -> Mapping[str, str]:
        """What MLflow noted of a version when it was registered; empty when it does not know the version."""
        from mlflow.exceptions import MlflowException

        with translated(self.settings):
            client = connect(self.settings)
            try:
                return dict(client.get_model_version(self.name, version).tags)
            except MlflowException as exc:
                if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise

    def gate_of(self, package: Package) -> GateFacts | None:
        """The gate's verdict on a package: in its card, or for those of earlier releases in its MLflow run."""
        if package.card.gate or not package.card.mlflow_run_id:
            return package.card.gate
        from mlflow.exceptions import MlflowException

        with translated(self.settings):
            try:
                return gate_facts(connect(self.settings).get_run(package.card.mlflow_run_id).data.tags)
            except MlflowException as exc:
                if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def signer_of(self, package: Package) -> PublicKey | None:
        """The key of this site that signed a package, once it is proven; None for one without a signature.

        Raises PackageError for another signature, or another content than was signed.
        """
        return verify_package(package.folder, trusted_keys(self.settings)) if is_signed(package.folder) else None

    def sign(self, package: Package, version: str) -> PublicKey:
        """Sign a stored package of an earlier release."""
        key = self.sign_folder(package.folder)
        data = (package.folder / SIGNATURE).read_bytes()
        self.storage.put(self.bucket, f"{self.name}/{version}/{SIGNATURE}", data, "application/json")
        return key

    def sign_folder(self, folder: Path) -> PublicKey:
        """Sign a package that is not stored yet, and publish the key."""
        key = site_key(self.settings)
        sign_package(folder, key)
        self._publish(key.public)
        return key.public

    def follow(self, entry: PromotionEntry, head: PromotionEntry | None = None) -> None:
        """Move the alias `champion` to an entry's version, and note the history's end outside its own store.

        The end is `head`, where that is another entry.
        """
        self.keep_anchor(head or entry)
        with translated(self.settings):
            client = connect(self.settings)
            client.set_registered_model_alias(self.name, CHAMPION, entry.version)
            if aliases(client, self.name).get(CHALLENGER) == entry.version:
                client.delete_registered_model_alias(self.name, CHALLENGER)

    def keep_anchor(self, entry: PromotionEntry) -> None:
        """Note the history's end in MLflow."""
        with translated(self.settings):
            connect(self.settings).set_registered_model_tag(self.name, ANCHOR, entry.anchor)

    def verified(self, anchors: Mapping[str, Anchor]) -> VerifiedHistory:
        """The history, its signatures and its anchors: MLflow's and the others, by where they are in a sentence.

        Raises RegistryError when it is damaged. Where MLflow does not answer, the others must do.
        """
        return verify(
            self.history.stored(),
            anchors={MLFLOW: self._anchor(), **anchors},
            trusted=trusted_keys(self.settings),
            published=self._published_keys(),
            foreign=self.history.foreign(),
        )

    def append(self, after: PromotionEntry | None, **values: Any) -> PromotionEntry:
        """Write an entry of the history, signed; raises what `History.append` raises."""
        key = site_key(self.settings)
        self._publish(key.public)
        return self.history.append(after, key=key, **values)

    def trust(self, keys: Sequence[PublicKey]) -> None:
        """Add keys to those that this site trusts."""
        trust_keys(self.settings, tuple(keys))

    def _publish(self, key: PublicKey) -> None:
        """Store a public key beside the history, for others to verify with."""
        self.storage.put_if_absent(self.bucket, f"{self._keys}{key.id[:16]}.pub", key.pem.encode(), "text/plain")

    def _published_keys(self) -> tuple[PublicKey, ...]:
        keys: list[PublicKey] = []
        for info in self.storage.list(self.bucket, self._keys):
            keys += parse_public_keys(self.storage.get(self.bucket, info.key).data.decode("ascii", "replace"))
        return tuple(dict.fromkeys(keys))

    def _anchor(self) -> Anchor:
        try:
            with translated(self.settings):
                return Anchor(registered_model(connect(self.settings), self.name).tags.get(ANCHOR))
        except RegistryUnavailable:
            return Anchor(None, reachable=False)

    @property
    def _keys(self) -> str:
        return f"{self.name}/keys/"


def _version(entry: Any, aliases: Mapping[str, str], package: str) -> Version:
    version = str(entry.version)
    return Version(
        version=version,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == version)),
        registered=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
        package=package,
        mlflow_run=entry.run_id or "",
        tags=dict(entry.tags),
    )
