"""The crop around the lungs, inside the network's graph: box, resampling, and the way back for the map.

Everything is matrix products on whole batches, which LiteRT, TensorFlow Serving and the training loop run alike.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from typing import Any

import numpy as np

# Share of the lungs' area that may lie outside the box at each edge (specks), and the margin around it, in widths.
SPECK, MARGIN = 0.01, 0.06
# Values of the field below this are haze, not lung.
HAZE = 0.25
# Share of the image below which there are no lungs to crop to; the whole image is used, and the label becomes Unsure.
LEAST_AREA = 0.03


def lung_box(field: Any) -> Any:
    """The box around a lung field (N, h, w) in 0..1: (N, 4), left, top, right, bottom as shares of the image."""
    import keras

    ops: Any = keras.ops
    mass = ops.relu(field - HAZE)
    total = ops.sum(mass, axis=(1, 2))
    are_lungs = ops.cast(total > LEAST_AREA * (1 - HAZE) * field.shape[1] * field.shape[2], "float32")
    edges = []
    for axis in (1, 2):  # sums over rows give columns, hence left and right first
        line = ops.sum(mass, axis=axis)
        # The shares up to and from each line on, as products with a triangle of ones.
        before = np.triu(np.ones((line.shape[1],) * 2, np.float32))
        low, below = (
            ops.sum(ops.cast(ops.matmul(line, ones) / (total[:, None] + 1e-6) < SPECK, "float32"), axis=1)
            / line.shape[1]
            for ones in (before, before.T)
        )
        high = 1 - below
        reach = (high - low) * MARGIN
        edges.append((are_lungs * ops.maximum(low - reach, 0), 1 - are_lungs * (1 - ops.minimum(high + reach, 1))))
    (left, right), (top, bottom) = edges
    return ops.stack([left, top, right, bottom], axis=1)


def crop(images: Any, box: Any, side: int) -> Any:
    """The box of each image (N, h, w), averaged or interpolated to (N, side, side)."""
    import keras

    down = _weights(box[:, 1], box[:, 3], images.shape[1], side)
    across = _weights(box[:, 0], box[:, 2], images.shape[2], side)
    return keras.ops.matmul(keras.ops.matmul(down, images), keras.ops.transpose(across, (0, 2, 1)))


def _weights(low: Any, high: Any, source: int, side: int) -> Any:
    """Rows of weights (N, side, source) that resample from `low` to `high`, wide enough to average when shrinking."""
    import keras

    ops: Any = keras.ops
    steps = ((np.arange(side, dtype=np.float32) + 0.5) / side)[None, :]
    width = (high - low)[:, None]
    at = (low[:, None] + width * steps) * source - 0.5
    reach = ops.maximum(width * (source / side), 1.0)[:, :, None]
    places = np.arange(source, dtype=np.float32)[None, None, :]
    weights = ops.relu(1 - ops.abs(ops.expand_dims(at, 2) - places) / reach)
    return weights / (ops.sum(weights, axis=2, keepdims=True) + 1e-6)


def uncrop(maps: Any, box: Any, side: int) -> Any:
    """Maps (N, h, w) of the box, drawn over the whole image as (N, side, side); outside, the nearest edge goes on."""
    import keras

    down = _back(box[:, 1], box[:, 3], maps.shape[1], side)
    across = _back(box[:, 0], box[:, 2], maps.shape[2], side)
    return keras.ops.matmul(keras.ops.matmul(down, maps), keras.ops.transpose(across, (0, 2, 1)))


def _back(low: Any, high: Any, source: int, side: int) -> Any:
    import keras

    ops: Any = keras.ops
    steps = ((np.arange(side, dtype=np.float32) + 0.5) / side)[None, :]
    share = (low[:, None] * -1 + steps) / ((high - low)[:, None] + 1e-6)
    at = ops.clip(share * source - 0.5, 0.0, source - 1.0)
    return ops.relu(1 - ops.abs(ops.expand_dims(at, 2) - np.arange(source, dtype=np.float32)[None, None, :]))
