"""The arguments of the training pipeline, without kfp."""

from typing import Any

from components.blocks import block
from lungline.settings import Settings
from lungline.task.reading import DEFAULT, load_task

STEPS = ("prepare", "validate_data", "train", "evaluate", "gate", "register", "promote")
"""The steps in the order in which they run: each needs the previous ones."""


def pipeline_name(settings: Settings) -> str:
    """The name of the task's pipeline: of its runs, and on a server also of its versions and its schedule."""
    return f"{DEFAULT if settings.task == DEFAULT else settings.model_name}-training"


def _task(settings: Settings) -> dict[str, Any]:
    """The task, whole: a step in a pod has no task file. Nothing for the default."""
    if settings.task == DEFAULT:
        return {}
    return load_task(settings.task).model_dump(mode="json", exclude_none=True, exclude={"schema_version"})


def arguments(settings: Settings, *, data: str, data_digest: str, code_version: str) -> dict[str, Any]:
    """The pipeline's arguments for these settings."""
    blocks = {name: block(settings, name) for name in ("model", "images", "train", "gate")}
    return {
        "data": data,
        "data_digest": data_digest,
        "feedback": settings.feedback or "",
        "code_version": code_version,
        "policy": settings.policy,
        "task": _task(settings),
        **blocks,
    }
