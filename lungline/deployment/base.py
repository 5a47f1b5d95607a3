"""Where a champion serves: the laptop's predictor now, an InferenceService on a cluster by the same two calls.

A deployment either serves the new version and says so, or serves the old one and raises.
"""

from collections.abc import Callable
from typing import Protocol

from lungline.deployment.laptop import LaptopDeployment
from lungline.settings import Settings

"""How long a predictor may take to start or to load another package; a busy laptop needs 20 s for a start."""


class Deployment(Protocol):
    """A place where a model serves."""

    accepts_synthetic: bool
    """Whether a model that was trained on drawn phantoms may serve here."""

    def deploy(self, package_uri: str, version: str) -> str:
        """Serve a package; returns one sentence on what serves now. After an error the old version serves."""
        ...

    def serving(self) -> str | None:
        """The version that serves, None when there is none."""
        ...


def deployment_of(settings: Settings, on_progress: Callable[[str], None] = lambda _: None) -> Deployment:
    """Where the settings have models served; the one place that decides it.

    `on_progress` hears a sentence whenever something changes, where that takes a while.
    """
    if settings.deployment == "cluster":
        from lungline.deployment.kserve import ClusterDeployment

        return ClusterDeployment.from_settings(settings, on_progress=on_progress)
    return LaptopDeployment.from_settings(settings)
