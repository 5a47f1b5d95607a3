"""The deployment protocol: where the champion serves, on a laptop or on a cluster.

`deploy` either returns with the new version serving, or raises with the old version serving.
"""

from collections.abc import Callable
from typing import Protocol

from lungline.deployment.laptop import LaptopDeployment
from lungline.settings import Settings


class Deployment(Protocol):
    """A place where a model serves."""

    accepts_synthetic: bool
    """Whether a model trained on phantoms may serve here."""

    def deploy(self, package_uri: str, version: str) -> str:
        """Serve a package; returns a sentence that says what serves. After an error the old version serves."""
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
