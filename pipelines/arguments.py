"""The arguments of the training pipeline, without kfp."""

from typing import Any

from components.blocks import block
from lungline.settings import Settings

STEPS = ("prepare", "validate_data", "train", "evaluate", "gate", "register", "promote")
"""The steps in the order in which they run: each needs the previous ones."""


def arguments(settings: Settings, *, data: str, data_digest: str, code_version: str) -> dict[str, Any]:
    """The pipeline's arguments for these settings."""
    blocks = {name: block(settings, name) for name in ("model", "images", "train", "gate")}
    return {
        "data": data,
        "data_digest": data_digest,
        "feedback": settings.feedback or "",
        "code_version": code_version,
        "policy": settings.policy,
        **blocks,
    }
