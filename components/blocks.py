"""Blocks of settings as pipeline parameters.

Parameters describe the run, so they decide which cached steps are valid; the environment holds addresses and secrets.
A step gets only the blocks that it depends on.
"""

from collections.abc import Mapping
from typing import Any

from lungline.settings import Settings, load_settings

IMAGES = "image_"
"""Prefix of the settings that limit images; they have no block of their own."""


def block(settings: Settings, name: str) -> dict[str, Any]:
    """The block `model`, `train`, `gate` or `images` of the settings, as a pipeline takes it."""
    if name == "images":
        values = {key.removeprefix(IMAGES): value for key, value in settings.model_dump().items() if IMAGES in key[:6]}
    else:
        values = getattr(settings, name).model_dump(mode="json")
    # Kubeflow's parameters have no null; what is left out keeps its default, which is null.
    return {key: value for key, value in values.items() if value is not None}


def settings_of(**blocks: Mapping[str, Any]) -> Settings:
    """Settings from the environment and these blocks; raises SettingsError for an unknown name."""
    overrides: dict[str, Any] = {}
    for name, values in blocks.items():
        before = IMAGES if name == "images" else f"{name}."
        overrides |= {before + key: value for key, value in values.items()}
    return load_settings(overrides)
