"""Health checks of the registry: whether MLflow still has what the promotion history and the models bucket have.

People delete versions and move aliases on MLflow's pages. The champion goes on serving, because the history decides;
but `models:/pneumonia@champion` then names nothing, or another version.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator, Mapping

from lungline.health_check import Check
from lungline.registry.mlflow_client import connect, translated
from lungline.registry.registered_model import CHAMPION
from lungline.registry.versions import Registry

HISTORY = "history"


def check_registry(registry: Registry) -> Iterator[Check]:
    """Compare MLflow with the promotion history and the models bucket; nothing is changed.

    Raises RegistryUnavailable or StorageUnavailable when MLflow or the object store does not answer.
    """
    champion = registry.champion()
    folders = registry.storage.folders(registry.bucket, f"{registry.name}/")
    # SeaweedFS lists folders of which every object was deleted.
    packages = {version for version in folders if version != HISTORY and registry.has_package(version)}
    aliases, versions = _in_mlflow(registry)
    if champion is not None:
        yield _alias(champion, aliases, versions)
    yield from _deleted(registry, champion, packages - versions)
    yield from _without_package(registry, versions - packages)


def _in_mlflow(registry: Registry) -> tuple[Mapping[str, str], set[str]]:
    """Aliases and versions of the model in MLflow; none where somebody deleted the model itself."""
    from mlflow.exceptions import MlflowException

    with translated(registry.settings):
        client = connect(registry.settings)
        try:
            aliases = client.get_registered_model(registry.name).aliases
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}, set()
        entries = client.search_model_versions(f"name='{registry.name}'")
    return {alias: str(version) for alias, version in aliases.items()}, {str(entry.version) for entry in entries}


def _alias(champion: str, aliases: Mapping[str, str], versions: set[str]) -> Check:
    alias = aliases.get(CHAMPION)
    if champion not in versions:
        finding = f"version {champion} serves, but it was deleted in MLflow"
        cure = "Promote another version (`lungline models` lists them), or train one: `lungline train`."
    elif alias is None:
        finding = f"version {champion} serves, but MLflow's alias {CHAMPION} was removed"
        cure = f"lungline promote {champion} --by NAME --reason TEXT"
    else:
        finding = f"version {champion} serves, but MLflow's alias {CHAMPION} names version {alias}"
        cure = f"lungline promote {champion} --by NAME --reason TEXT"
    if alias == champion:
        return Check("mlflow alias", True, f"{CHAMPION} is version {champion}")
    return Check("mlflow alias", False, finding, cure)


def _deleted(registry: Registry, champion: str | None, missing: set[str]) -> Iterator[Check]:
    for version in sorted(missing, key=_number):
        if version != champion:
            yield Check(
                f"version {version}",
                False,
                "deleted in MLflow; its package is still stored",
                "MLflow cannot restore it. Train again, or remove the package: "
                f'eval "$(lungline env)"; aws s3 rm --recursive {registry.package_uri(version)}',
            )


def _without_package(registry: Registry, missing: set[str]) -> Iterator[Check]:
    for version in sorted(missing, key=_number):
        yield Check(
            f"version {version}",
            False,
            f"in MLflow, but {registry.package_uri(version)} has no package",
            "It cannot serve: delete the version in MLflow, and promote or train another.",
        )


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
