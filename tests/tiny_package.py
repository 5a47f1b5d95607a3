"""A real model package for tests: an untrained network, written in a moment."""

from pathlib import Path
from typing import Any

from lungline.images import Preparation
from lungline.package import Card, CodeFacts, DataFacts, Thresholds, write_package
from lungline.settings import ModelSettings

SIZE = 32


def write_tiny_package(folder: Path, *, seed: int = 3, **changes: Any) -> Card:
    """Write a package into a new folder; `changes` are values of its card."""
    from lungline.model import build

    values: dict[str, Any] = {
        "preparation": Preparation(size=SIZE, normalisation="equalise"),
        "thresholds": Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand."),
        "data": DataFacts(name="phantom", digest="0" * 64, synthetic=True),
        "code": CodeFacts(version="0.1.0"),
        "version": "1",
    }
    network = build(ModelSettings(size=SIZE, width=4), seed=seed)
    return write_package(folder, keras_model=network, card=Card(**(values | changes)))
