"""The population check: how far an image lies from all X-rays that the model learnt from.

A model that learnt from children of one hospital gives sure answers on adults, on another view or another processing,
and they mean nothing. Such images have feature maps whose means and deviations lie far from those of the training
images: the distance is Mahalanobis's, with the main axes of the training images and one variance for all others.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.package.card import PopulationCheck
from lungline.training.export import round_weights
from lungline.training.views import Floats, outputs_of

if TYPE_CHECKING:
    import keras

SUMMARY, SCALED, MAIN, DISTANCE = "population_summary", "population_scaled", "population_axes", "distance"
# Axes with a variance of their own. More are fitted to chance: they tell fewer adults from children.
AXES = 8
# Deviations beyond which a feature counts no more: one dead feature must not decide.
FARTHEST = 8.0
# Share of training and validation X-rays that may be doubted: mostly those of which hardly any lung is left.
DOUBTED = 0.025


def distance_of(maps: list[Any]) -> Any:
    """The distance (N, 1) of images with these feature maps (N, h, w, channels); 0 until it is fitted."""
    import keras

    layers: Any = keras.layers
    ops: Any = keras.ops
    parts: list[Any] = []
    for features in maps:
        mean = ops.mean(features, axis=(1, 2))
        parts += [mean, ops.sqrt(ops.relu(ops.mean(features * features, axis=(1, 2)) - mean * mean) + 1e-6)]
    summary = layers.Concatenate(name=SUMMARY)(parts)
    scaled = layers.BatchNormalization(center=False, scale=False, epsilon=1e-6, trainable=False, name=SCALED)(summary)
    scaled = ops.clip(scaled, -FARTHEST, FARTHEST)
    main = layers.Dense(AXES, use_bias=False, trainable=False, name=MAIN)(scaled)
    squares = layers.Concatenate()([main * main, ops.sum(scaled * scaled, axis=1, keepdims=True)])
    zero = keras.initializers.Zeros()
    return layers.Dense(1, use_bias=False, trainable=False, kernel_initializer=zero, name=DISTANCE)(squares)


def fit_population_check(
    model: "keras.Model", summary: Floats, val: NDArray[np.uint8], preparation: Preparation
) -> PopulationCheck:
    """Fit the distance of a trained network in place, and choose its threshold.

    `summary` is what its layer SUMMARY makes of the training images; `val` is uint8 (N, size, size).
    """
    import keras

    middle, variance = summary.mean(axis=0), summary.var(axis=0)
    model.get_layer(SCALED).set_weights([middle, variance])
    epsilon = model.get_layer(SCALED).epsilon
    scaled = np.clip((summary - middle) / np.sqrt(variance + epsilon), -FARTHEST, FARTHEST)
    spread, axes = np.linalg.eigh(np.cov(scaled.T.astype(np.float64)))
    main, others = spread[::-1][:AXES], spread[::-1][AXES:].mean()
    model.get_layer(MAIN).set_weights([axes[:, ::-1][:, :AXES].astype(np.float32)])
    # In deviations squared for each feature: an image like those of training has a distance of about 1.
    shares = np.append(1 / main - 1 / others, 1 / others) / len(middle)
    model.get_layer(DISTANCE).set_weights([shares[:, None].astype(np.float32)])
    round_weights(model)
    # Only the layers after the summary have changed: the images need not pass through the network again.
    outputs: Any = model.output
    distance: Any = keras.Model(model.get_layer(SUMMARY).output, outputs["distance"])
    (held_summary,) = outputs_of(model, SUMMARY)(preparation.normalise(val))
    summaries = summary, held_summary
    fitted, held = (distance.predict(values, batch_size=256, verbose="0").ravel() for values in summaries)
    # Validation alone has few images; training images lie too near when they are few.
    cuts = [np.quantile(distances, 1 - DOUBTED) for distances in (np.concatenate([fitted, held]), held)]
    return PopulationCheck(
        threshold=float(max(cuts)),
        chosen=f"The distance from {len(summary)} training images that at most {DOUBTED:.1%} of these and of "
        f"{len(val)} validation images exceed.",
    )
