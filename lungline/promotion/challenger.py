"""A version that gives second opinions on a cluster: it is named in an InferenceService of its own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lungline.deployment.kserve import ClusterDeployment
from lungline.deployment.kubernetes_api import KubernetesApi
from lungline.deployment.release import Release
from lungline.errors import PackageError
from lungline.package.signature import is_signed
from lungline.registry.versions import Registry
from lungline.results.opinions import Purpose
from lungline.settings import Settings

Component = Literal["shadow", "rejudge"]
"""Of `manifests/components`, each of which brings an InferenceService."""
PURPOSES: dict[Component, Purpose] = {"shadow": "shadow", "rejudge": "rejudged"}


def challenge(
    settings: Settings, version: str | None, component: Component, on_progress: Callable[[str], None] = lambda _: None
) -> str:
    """Let a version, the registry's challenger by default, give second opinions on a cluster; one sentence.

    Raises PackageError where the cluster has not the component, RegistryError, ModelNotReady, ClusterUnavailable.
    """
    registry = Registry(settings)
    target = registry.resolve(version)
    name = f"{settings.model_name}-{component}"
    place = ClusterDeployment(KubernetesApi.connect(settings.kube_context), name, on_progress=on_progress)
    if f"--purpose={PURPOSES[component]}" not in place.arguments():  # else it would answer
        raise PackageError(
            f"The cluster has no InferenceService {name} for second opinions: add manifests/components/{component} to "
            "its overlay."
        )
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        package = registry.fetch(target, Path(temporary) / target)
        registry.signer_of(package)  # raises for another signature than this site's
        release = Release(package.sha256, signed=is_signed(package.folder))
    return place.deploy(registry.package_uri(target), target, release)
