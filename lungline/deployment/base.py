"""The deployment protocol: where the champion serves, on a laptop or on a cluster.

`deploy` either returns with the new version serving, or raises with the old version serving.
"""

from collections.abc import Callable
from typing import Protocol

from lungline.deployment.laptop import LaptopDeployment
from lungline.deployment.release import Release
from lungline.errors import LunglineError
from lungline.settings import Settings


class Deployment(Protocol):
    """A place where a model serves."""

    accepts_synthetic: bool
    """Whether a model trained on phantoms may serve here."""

    def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
        """Serve a package; returns a sentence that says what serves. After an error the old version serves.

        `release` says what the predictor must find in the package.
        """
        ...

    def intact(self, version: str, sha256: str) -> bool:
        """Whether a version serves and what it serves from is undamaged, as far as that can be looked at."""
        ...

    def anchor(self) -> str | None:
        """The entry of the promotion history that was anchored here; None where none was."""
        ...

    def keep_anchor(self, anchor: str) -> None:
        """Anchor an entry of the promotion history here, where that changes nothing that serves."""
        ...

    def serving(self) -> str | None:
        """The version that serves; None when there is none."""
        ...


def deployment_of(settings: Settings, on_progress: Callable[[str], None] = lambda _: None) -> Deployment:
    """The deployment that the settings choose.

    `on_progress` is called with a sentence whenever the state of a cluster's rollout changes.
    """
    if settings.deployment == "cluster":
        from lungline.deployment.kserve import ClusterDeployment

        return ClusterDeployment.from_settings(settings, on_progress=on_progress)
    return LaptopDeployment.from_settings(settings)


def reachable_deployment(settings: Settings) -> Deployment | None:
    """The deployment that the settings choose; None where it does not answer, for those who only read."""
    try:
        deployment = deployment_of(settings)
        deployment.anchor()
    except LunglineError:
        return None
    return deployment
