"""A real model package for tests: an untrained network, built once for each seed in a run of the tests."""

import shutil
from pathlib import Path
from typing import Any

from lungline.imaging.preparation import Preparation
from lungline.package.card import Calibration, Card, CodeFacts, DataFacts, FindingModel, Thresholds, amend_card
from lungline.settings import ModelSettings
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.training.export import write_package
from tests.support.once import built_once

SIZE = 32


def write_tiny_package(folder: Path, *, seed: int = 3, task: Task | None = None, **changes: Any) -> Card:
    """Write a package of a task into a new folder; `changes` are values of its card."""
    task = task or default_task()
    shutil.copytree(built_once(f"tiny-{task.name}-{seed}", lambda place: _build(place, seed, task)), folder)
    return amend_card(folder, **({"version": "1", "task": task} | changes))


def _build(folder: Path, seed: int, task: Task) -> None:
    from lungline.training.train import build  # TensorFlow takes seconds to import

    band = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")
    several = task.positives if len(task.findings) > 2 else ()
    calibration = Calibration(kind="softmax")
    card = Card(
        name=task.name,
        preparation=Preparation(size=SIZE, normalisation="equalise"),
        task=task,
        findings=tuple(FindingModel(name=each.name, calibration=calibration, thresholds=band) for each in several),
        thresholds=band,
        data=DataFacts(name="phantom", digest="0" * 64, synthetic=True),
        code=CodeFacts(version="0.1.0"),
    )
    network = build(ModelSettings(size=SIZE, width=4), seed=seed, task=task)
    write_package(folder, keras_model=network, card=card, way="direct")  # a fifth of the converter's time
