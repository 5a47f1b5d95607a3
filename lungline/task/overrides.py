"""What a task file says of settings: it holds where nobody set them."""

from typing import Any, Protocol

from lungline.settings_blocks import GateSettings, TrainSettings
from lungline.task.reading import DEFAULT, load_task


class _Settings(Protocol):
    task: str
    model_name: str
    gate: GateSettings
    train: TrainSettings

    @property
    def model_fields_set(self) -> set[str]: ...


def default_model(settings: _Settings) -> str:
    """The name of the default task's model, whichever task the settings name: its records do not say it."""
    return settings.model_name if settings.task == DEFAULT else DEFAULT


def task_option(settings: _Settings) -> str:
    """The option that names the settings' task in a command that a message recommends; empty for the default task."""
    return "" if settings.task == DEFAULT else f" --task {settings.model_name}"


def overrides_of(settings: _Settings) -> dict[str, Any]:
    """Values for settings that nobody set, from their task: floors, targets, and names of model and experiment.

    None of the default task, whose values are the defaults. Raises TaskError.
    """
    if settings.task == DEFAULT:
        return {}
    task, free = load_task(settings.task), {"model_name", "experiment"} - settings.model_fields_set
    floors = task.gate.model_dump(include=task.gate.model_fields_set - settings.gate.model_fields_set)
    targets = task.targets.model_dump(exclude=settings.train.model_fields_set, exclude_none=True)
    return dict.fromkeys(free, task.name) | {
        "gate": settings.gate.model_copy(update=floors),
        "train": settings.train.model_copy(update=targets),
    }
