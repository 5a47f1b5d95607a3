"""The model registry: versions in MLflow, their packages in the models bucket.

A version's number comes from MLflow; its package lies at `s3://{models_bucket}/{model_name}/{version}/` and never
changes: card.json is written last and only where there is none, so a half-written package is no package. Which version
is in service is the history's to say (`lungline.registry.history`); the alias `champion` follows it.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungline.errors import LunglineError, ObjectGone, PackageError, RegistryError, RegistryUnavailable
from lungline.package.card import CARD, GateFacts, amend_card
from lungline.package.package import Package
from lungline.package.signature import SIGNATURE, is_signed, sign_package, verify_package
from lungline.registry.history import History, PromotionEntry
from lungline.registry.mlflow_flavor import PACKAGE, write_mlmodel
from lungline.registry.tracking import GATE, LOWERED, VERDICT, connect, translated
from lungline.registry.verification import MLFLOW, Anchor, VerifiedHistory, verify
from lungline.settings import Settings
from lungline.site_key import PublicKey, parse_public_keys, site_key, trust_keys, trusted_keys
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task, packaged

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
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


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a registration; `new` is False when the run's package was registered before."""

    version: str
    new: bool
    package: str


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

    def register(
        self,
        package: Path,
        *,
        run_id: str,
        pipeline_run: str,
        metrics: Mapping[str, float],
        confusion: Mapping[str, int] | None = None,
    ) -> Registered:
        """Register a package as the challenger; the package of a run is registered once.

        Its card gets the version, the runs' names, and the metrics and confusion matrix of the test split. After a
        crash the same call completes what is there.
        """
        with translated(self.settings), tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
            client = connect(self.settings)
            if done := self._registered(client, run_id):
                self._set_challenger(client, done)
                return Registered(done, new=False, package=self.package_uri(done))
            version = self._reserve(client, run_id)
            folder = Path(temporary) / version
            shutil.copytree(package, folder)
            amend_card(
                folder,
                name=self.name,
                version=version,
                mlflow_run_id=run_id,
                pipeline_run=pipeline_run,
                metrics=dict(metrics),
                confusion=dict(confusion or {}),
                gate=_gate_facts(client.get_run(run_id).data.tags),
            )
            loaded = Package.load(folder)
            self._sign(folder)
            self._store(folder, version)
            self._describe(client, version, loaded)
            self._set_challenger(client, version)
        return Registered(version, new=True, package=self.package_uri(version))

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
            return self._aliases(connect(self.settings)).get(CHALLENGER)

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with translated(self.settings):
            client = connect(self.settings)
            aliases = self._aliases(client)
            entries = client.search_model_versions(f"name='{self.name}'")
        versions = [_version(entry, aliases, self.package_uri(str(entry.version))) for entry in entries]
        return sorted(versions, key=lambda version: int(version.version), reverse=True)

    def package_uri(self, version: str) -> str:
        """Where the package of a version lies."""
        return f"s3://{self.bucket}/{self.name}/{version}/"

    def has_package(self, version: str) -> bool:
        """Whether the package of a version is stored."""
        return self.storage.exists(self.bucket, self._key(version))

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
                return _gate_facts(connect(self.settings).get_run(package.card.mlflow_run_id).data.tags)
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
        key = self._sign(package.folder)
        data = (package.folder / SIGNATURE).read_bytes()
        self.storage.put(self.bucket, f"{self.name}/{version}/{SIGNATURE}", data, "application/json")
        return key

    def follow(self, entry: PromotionEntry, head: PromotionEntry | None = None) -> None:
        """Move the alias `champion` to an entry's version, and note the history's end outside its own store.

        The end is `head`, where that is another entry.
        """
        self.keep_anchor(head or entry)
        with translated(self.settings):
            client = connect(self.settings)
            client.set_registered_model_alias(self.name, CHAMPION, entry.version)
            if self._aliases(client).get(CHALLENGER) == entry.version:
                client.delete_registered_model_alias(self.name, CHALLENGER)

    def keep_anchor(self, entry: PromotionEntry) -> None:
        """Note the history's end in MLflow."""
        with translated(self.settings):
            connect(self.settings).set_registered_model_tag(self.name, ANCHOR, entry.anchor)

    def verified_history(self) -> list[PromotionEntry]:
        """The history's entries, checked against MLflow's note of its end; raises RegistryError when it is damaged."""
        return list(self.verified({}).entries)

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

    def _sign(self, folder: Path) -> PublicKey:
        key = site_key(self.settings)
        sign_package(folder, key)
        self._publish(key.public)
        return key.public

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
                return Anchor(self._model(connect(self.settings)).tags.get(ANCHOR))
        except RegistryUnavailable:
            return Anchor(None, reachable=False)

    @property
    def _keys(self) -> str:
        return f"{self.name}/keys/"

    def _registered(self, client: "MlflowClient", run_id: str) -> str | None:
        for entry in client.search_model_versions(f"name='{self.name}' and run_id='{run_id}'"):
            version = str(entry.version)
            if self.has_package(version):
                return version
            # The registration of this version broke off before its package was there; the next number is as good.
            client.delete_model_version(self.name, version)
        return None

    def _reserve(self, client: "MlflowClient", run_id: str) -> str:
        """A new version number in MLflow under which no package lies."""
        self._model(client)
        experiment = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(experiment, name=self.name, source_run_id=run_id, model_type="litert")
        while True:
            # A package without a version in MLflow is left of a registry that was lost: its number stays taken.
            entry = client.create_model_version(
                self.name, f"models:/{logged.model_id}", run_id, model_id=logged.model_id, await_creation_for=0
            )
            version = str(entry.version)
            if not self.has_package(version):
                return version
            client.delete_model_version(self.name, version)

    def _store(self, folder: Path, version: str) -> None:
        prefix = f"{self.name}/{version}"
        for info in self.storage.list(self.bucket, f"{prefix}/"):
            with contextlib.suppress(LunglineError):  # on a cluster a pipeline may not delete
                self.storage.delete(self.bucket, info.key)
        card = (folder / CARD).read_bytes()
        with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
            rest = shutil.copytree(folder, Path(temporary) / version, ignore=shutil.ignore_patterns(CARD))
            self.storage.upload_folder(rest, self.bucket, prefix)
        if not self.storage.put_if_absent(self.bucket, self._key(version), card, "application/json"):
            raise RegistryError(f"Somebody else has registered version {version} of {self.name} at the same time.")

    def _describe(self, client: "MlflowClient", version: str, package: Package) -> None:
        """Show the package on MLflow's pages: its files, where it truly lies, and what it is."""
        source = str(client.get_model_version(self.name, version).source)
        model_id = source.removeprefix("models:/")
        with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
            shutil.copytree(package.folder, Path(temporary) / PACKAGE)
            write_mlmodel(Path(temporary), model_id, package.card.mlflow_run_id or "")
            client.log_model_artifacts(model_id, temporary)
        client.finalize_logged_model(model_id, "READY")
        card = package.card
        tags = {
            "package": self.package_uri(version),
            "package_sha256": package.sha256,
            "signed_by": site_key(self.settings).public.id,
            "pipeline_run": card.pipeline_run or "",
            "data": card.data.name,
            "data_digest": card.data.digest,
            "synthetic": str(card.synthetic).lower(),
            "code_version": card.code.version,
            **({"site": card.site.name, "parent": card.site.parent} if card.site else {}),
            **({"prior": f"{card.prior.share:.4f}"} if card.prior else {}),
            **{f"test_{name}": f"{value:.4f}" for name, value in card.metrics.items()},
        }
        for name, value in tags.items():
            client.set_model_version_tag(self.name, version, name, value)

    def _set_challenger(self, client: "MlflowClient", version: str) -> None:
        if version != self.champion():
            client.set_registered_model_alias(self.name, CHALLENGER, version)

    def _aliases(self, client: "MlflowClient") -> dict[str, str]:
        return {alias: str(version) for alias, version in self._model(client).aliases.items()}

    def _model(self, client: "MlflowClient") -> Any:
        """The registered model, made on first use."""
        from mlflow.exceptions import MlflowException

        try:
            return client.get_registered_model(self.name)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        try:
            title = load_task(self.name).title if self.name in packaged() else self.name
            return client.create_registered_model(self.name, description=f"{title}. Research use only.")
        except MlflowException as exc:
            # Another registration made it at the same moment.
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return client.get_registered_model(self.name)

    def _key(self, version: str) -> str:
        return f"{self.name}/{version}/{CARD}"


def _gate_facts(tags: Mapping[str, str]) -> GateFacts | None:
    """The gate's verdict in the tags of a run; None for a run that the gate has not judged."""
    if GATE not in tags:
        return None
    lowered = tuple(filter(None, tags.get(LOWERED, "").split("; ")))
    return GateFacts(passed=tags[GATE] == "passed", sentence=tags.get(VERDICT, ""), lowered=lowered)


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
