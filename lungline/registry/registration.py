"""Registration: a run's package becomes a version, stored once and shown on MLflow's pages.

A crash at any point leaves no half version: a number counts once its package is stored, whose card is written last.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lungline.errors import LunglineError, RegistryError
from lungline.package.card import CARD, amend_card
from lungline.package.package import Package
from lungline.registry.mlflow_client import connect, translated
from lungline.registry.mlflow_flavor import PACKAGE, write_mlmodel
from lungline.registry.registered_model import CHALLENGER, registered_model
from lungline.registry.tracking import gate_facts
from lungline.registry.versions import Registry
from lungline.site_key import site_key

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a registration; `new` is False when the run's package was registered before."""

    version: str
    new: bool
    package: str


def register(
    registry: Registry,
    package: Path,
    *,
    run_id: str,
    pipeline_run: str,
    metrics: Mapping[str, float],
    confusion: Mapping[str, int] | None = None,
) -> Registered:
    """Register a package as the challenger; the package of a run is registered once.

    Its card gets the version, the runs' names, and the metrics and confusion matrix of the test split. After a
    crash the same call completes what is there. Raises RegistryUnavailable and StorageUnavailable.
    """
    with translated(registry.settings), tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        client = connect(registry.settings)
        if done := _registered(registry, client, run_id):
            _set_challenger(registry, client, done)
            return Registered(done, new=False, package=registry.package_uri(done))
        version = _reserve(registry, client, run_id)
        folder = Path(temporary) / version
        shutil.copytree(package, folder)
        amend_card(
            folder,
            name=registry.name,
            version=version,
            mlflow_run_id=run_id,
            pipeline_run=pipeline_run,
            metrics=dict(metrics),
            confusion=dict(confusion or {}),
            gate=gate_facts(client.get_run(run_id).data.tags),
        )
        loaded = Package.load(folder)
        registry.sign_folder(folder)
        _store(registry, folder, version)
        _describe(registry, client, version, loaded)
        _set_challenger(registry, client, version)
    return Registered(version, new=True, package=registry.package_uri(version))


def _registered(registry: Registry, client: "MlflowClient", run_id: str) -> str | None:
    for entry in client.search_model_versions(f"name='{registry.name}' and run_id='{run_id}'"):
        version = str(entry.version)
        if registry.has_package(version):
            return version
        # The registration of this version broke off before its package was there; the next number is as good.
        client.delete_model_version(registry.name, version)
    return None


def _reserve(registry: Registry, client: "MlflowClient", run_id: str) -> str:
    """A new version number in MLflow under which no package lies."""
    name = registered_model(client, registry.name).name
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, model_type="litert")
    while True:
        # A package without a version in MLflow is left of a registry that was lost: its number stays taken.
        entry = client.create_model_version(
            name, f"models:/{logged.model_id}", run_id, model_id=logged.model_id, await_creation_for=0
        )
        version = str(entry.version)
        if not registry.has_package(version):
            return version
        client.delete_model_version(name, version)


def _store(registry: Registry, folder: Path, version: str) -> None:
    prefix, storage, bucket = f"{registry.name}/{version}", registry.storage, registry.bucket
    for info in storage.list(bucket, f"{prefix}/"):
        with contextlib.suppress(LunglineError):  # on a cluster a pipeline may not delete
            storage.delete(bucket, info.key)
    card = (folder / CARD).read_bytes()
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        rest = shutil.copytree(folder, Path(temporary) / version, ignore=shutil.ignore_patterns(CARD))
        storage.upload_folder(rest, bucket, prefix)
    if not storage.put_if_absent(bucket, f"{prefix}/{CARD}", card, "application/json"):
        raise RegistryError(f"Somebody else has registered version {version} of {registry.name} at the same time.")


def _describe(registry: Registry, client: "MlflowClient", version: str, package: Package) -> None:
    """Show the package on MLflow's pages: its files, where it truly lies, and what it is."""
    source = str(client.get_model_version(registry.name, version).source)
    model_id = source.removeprefix("models:/")
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        shutil.copytree(package.folder, Path(temporary) / PACKAGE)
        write_mlmodel(Path(temporary), model_id, package.card.mlflow_run_id or "")
        client.log_model_artifacts(model_id, temporary)
    client.finalize_logged_model(model_id, "READY")
    card = package.card
    tags = {
        "package": registry.package_uri(version),
        "package_sha256": package.sha256,
        "signed_by": site_key(registry.settings).public.id,
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
        client.set_model_version_tag(registry.name, version, name, value)


def _set_challenger(registry: Registry, client: "MlflowClient", version: str) -> None:
    if version != registry.champion():
        client.set_registered_model_alias(registry.name, CHALLENGER, version)
