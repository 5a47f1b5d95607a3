"""A network that reads one region of an image, with the middle as its lungs, and images that differ in one region."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lungline.evaluation.metrics import Case
from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds
from lungline.package.package import Package
from lungline.training.export import write_package

SIZE = 40
THRESHOLDS = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")


def card_of(**values: Any) -> Card:
    """The card of such a network; `values` are more of its values."""
    return Card(
        preparation=Preparation(size=SIZE),
        thresholds=THRESHOLDS,
        data=DataFacts(name="drawn", digest="0", synthetic=True),
        code=CodeFacts(version="0"),
        version="1",
        **values,
    )


def reader_of(region: tuple[slice, slice], folder: Path, *, segments: bool = True, **card: Any) -> Package:
    """A network whose logit is the mean grey of one region of the image, and whose lungs are the middle."""
    import keras

    layers: Any = keras.layers
    ops: Any = keras.ops
    weight = np.zeros((1, SIZE, SIZE, 1), np.float32)
    weight[(0, *region)] = 1
    middle = np.zeros((1, SIZE, SIZE), np.float32)
    middle[:, 10:30, 10:30] = 1
    image: Any = keras.Input((SIZE, SIZE, 1), name="image")
    evidence = (image - 0.5) * (weight * 40.0)
    seen = evidence[..., 0]
    outputs = {
        "logit": ops.sum(evidence, axis=(1, 2)) / float(weight.sum()),
        "cam": layers.Identity(name="cam")(seen),
        "lungs": layers.Identity(name="field")(keras.ops.clip(seen * 0.0 + middle, 0.0, 1.0)),
        "chest": layers.Identity(name="chest")(ops.sum(evidence, axis=(1, 2)) * 0.0 + 9.0),
    }
    if not segments:  # as networks of earlier releases
        del outputs["lungs"]
    write_package(folder, keras_model=keras.Model(image, outputs), card=card_of(**card), way="direct")
    return Package.load(folder)


def films(where: tuple[slice, slice]) -> list[Case]:
    """Images of two classes that differ in one region only, where those of the second class are brighter."""
    rng = np.random.default_rng(0)
    cases: list[Case] = []
    for at in range(24):
        film = rng.integers(90, 130, (SIZE, SIZE)).astype(np.uint8)
        film[where] += np.uint8(100 if at % 2 else 0)
        buffer = io.BytesIO()
        Image.fromarray(film).save(buffer, "PNG")
        cases.append(Case(at % 2, buffer.getvalue()))
    return cases


CORNER, CENTRE = (slice(0, 6), slice(0, 6)), (slice(16, 24), slice(16, 24))
