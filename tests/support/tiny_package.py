"""A real model package for tests: an untrained network, built once for each seed in a run of the tests."""

import shutil
from pathlib import Path
from typing import Any

from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds, amend_card
from lungline.settings import ModelSettings
from lungline.training.export import write_package
from tests.support.once import built_once

SIZE = 32


def write_tiny_package(folder: Path, *, seed: int = 3, **changes: Any) -> Card:
    """Write a package into a new folder; `changes` are values of its card."""
    shutil.copytree(built_once(f"tiny-package-{seed}", lambda place: _build(place, seed)), folder)
    return amend_card(folder, **({"version": "1"} | changes))


def _build(folder: Path, seed: int) -> None:
    from lungline.training.train import build  # TensorFlow takes seconds to import

    card = Card(
        preparation=Preparation(size=SIZE, normalisation="equalise"),
        thresholds=Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand."),
        data=DataFacts(name="phantom", digest="0" * 64, synthetic=True),
        code=CodeFacts(version="0.1.0"),
    )
    write_package(folder, keras_model=build(ModelSettings(size=SIZE, width=4), seed=seed), card=card)
