"""A version that gives second opinions on a cluster: it is named in an InferenceService of its own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lungline.deployment.kserve_challenger import ChallengerDeployment, Standing
from lungline.deployment.release import Release
from lungline.errors import PackageError
from lungline.package.signature import is_signed
from lungline.registry.versions import Registry
from lungline.results.opinions import Purpose
from lungline.results.records import record_version
from lungline.settings import Settings
from lungline.task.reading import DEFAULT, is_name, load_task

Component = Literal["shadow", "rejudge"]
"""Of `manifests/components`, each of which brings an InferenceService."""
PURPOSES: dict[Component, Purpose] = {"shadow": "shadow", "rejudge": "rejudged"}
OnProgress = Callable[[str], None]


def challenge(
    settings: Settings, version: str | None, component: Component, on_progress: OnProgress = lambda _: None
) -> str:
    """Let a version, the registry's challenger by default, give second opinions on a cluster; one sentence.

    Raises PackageError where the cluster has not the component, RegistryError, ModelNotReady, ClusterUnavailable.
    """
    registry = Registry(settings)
    target = registry.resolve(version)
    place = _place(settings, component, on_progress)
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        package = registry.fetch(target, Path(temporary) / target)
        registry.signer_of(package)  # raises for another signature than this site's
        release = Release(package.sha256, signed=is_signed(package.folder))
    return place.deploy(registry.package_uri(target), target, release)


def standing(settings: Settings, component: Component) -> Standing:
    """Which version gives second opinions on a cluster, and whether it is ready. Raises as `challenge` does."""
    return _place(settings, component).standing()


def stop(settings: Settings, component: Component) -> str | None:
    """End the second opinions on a cluster until the next `challenge`; the version, None where none gave any.

    Raises as `challenge` does.
    """
    return _place(settings, component).stop()


def recorded(settings: Settings, version: str) -> str:
    """A version of the settings' model as records name it. Raises TaskError."""
    return record_version(settings.model_name, task_name(settings), version)


def task_name(settings: Settings) -> str:
    """The name of the settings' task, whose file need not be at hand where a name is given. Raises TaskError."""
    return settings.task if is_name(settings.task) else load_task(settings.task).name


def _place(settings: Settings, component: Component, on_progress: OnProgress = lambda _: None) -> ChallengerDeployment:
    """The InferenceService of the component, which must give second opinions: another would answer."""
    name = f"{settings.model_name}-{component}"
    place = ChallengerDeployment.from_settings(settings.model_copy(update={"model_name": name}), on_progress)
    if f"--purpose={PURPOSES[component]}" not in place.arguments():
        task = task_name(settings)
        more = "" if task == DEFAULT else f", and what `lungline task manifests {task} --for {component}` writes"
        raise PackageError(
            f"The cluster has no InferenceService {name} for second opinions: add manifests/components/{component} to "
            f"its overlay{more}."
        )
    return place
