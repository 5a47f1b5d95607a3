"""A real model package for tests: an untrained network, built once for each seed."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds, amend_card
from lungline.settings import ModelSettings
from lungline.training.export import write_package

SIZE = 32


def write_tiny_package(folder: Path, *, seed: int = 3, **changes: Any) -> Card:
    """Write a package into a new folder; `changes` are values of its card."""
    shutil.copytree(_built(seed), folder)
    return amend_card(folder, **({"version": "1"} | changes))


@cache
def _built(seed: int) -> Path:
    from lungline.training.train import build

    scratch = Path(tempfile.mkdtemp(prefix="tiny-package-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    card = Card(
        preparation=Preparation(size=SIZE, normalisation="equalise"),
        thresholds=Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand."),
        data=DataFacts(name="phantom", digest="0" * 64, synthetic=True),
        code=CodeFacts(version="0.1.0"),
    )
    write_package(scratch / "package", keras_model=build(ModelSettings(size=SIZE, width=4), seed=seed), card=card)
    return scratch / "package"
