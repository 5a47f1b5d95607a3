"""What layers of a trained network make of images: one pass of the training images for all checks fitted on them.

Each check wants other layers, of all images or of some. An image passes through the network once, whoever wants it.
"""

# pyright: basic
# Keras ships no usable types: strictness here would only collect casts.
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.training.fused_norm import fused

if TYPE_CHECKING:
    import keras

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.integer[Any]]

# Images that are prepared at once.
_BLOCK = 500


def outputs_of(model: "keras.Model", *layers: str) -> Callable[[NDArray[np.float32]], list[Floats]]:
    """A function from prepared images (N, size, size, 1) to the outputs of layers, in batches."""
    import keras

    part: Any = fused(keras.Model(model.input, [model.get_layer(name).output for name in layers]))

    def outputs(images: NDArray[np.float32]) -> list[Floats]:
        values = part.predict(images, batch_size=256, verbose="0")
        return [np.asarray(value) for value in (values if isinstance(values, list | tuple) else [values])]

    return outputs


def views_of(
    model: "keras.Model", pixels: NDArray[np.uint8], preparation: Preparation, wanted: Mapping[str, Rows]
) -> dict[str, Floats]:
    """The outputs of each wanted layer for its rows of `pixels`, uint8 (N, size, size), in the order of the rows.

    Only the blocks of images that somebody wants pass through the network; what nobody wants is not kept.
    """
    outputs = outputs_of(model, *wanted)
    kept: dict[str, Floats] = {}
    for start in range(0, len(pixels), _BLOCK):
        block = pixels[start : start + _BLOCK]
        here = {name: np.flatnonzero((rows >= start) & (rows < start + _BLOCK)) for name, rows in wanted.items()}
        if not any(len(places) for places in here.values()):
            continue
        for (name, places), values in zip(here.items(), outputs(preparation.normalise(block)), strict=True):
            if name not in kept:
                kept[name] = np.empty((len(wanted[name]), *values.shape[1:]), np.float32)
            kept[name][places] = values[wanted[name][places] - start]
    return kept
