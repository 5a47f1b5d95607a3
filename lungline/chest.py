"""The chest check: whether a picture is a frontal chest X-ray at all, from the features that the network has anyway.

One more weighted sum in the same forward pass, fitted after training to tell X-rays from pictures that are none.
"""

# pyright: basic
# Keras and scikit-learn ship no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.images import Preparation
from lungline.network import FEATURES, OUTPUT
from lungline.outliers import draw_outliers
from lungline.package import ChestCheck

if TYPE_CHECKING:
    import keras

Floats = NDArray[np.floating[Any]]

# Enough for the few hundred weights; more costs time and changes nothing.
PICTURES = 1800
# Real X-rays of the val split, whole and augmented, that may be doubted. The share grows on X-rays from elsewhere.
DOUBTED = 0.002
# Distance in logits that the threshold keeps below that quantile, for the same reason.
MARGIN = 0.5


def fit_chest_check(
    model: "keras.Model", train: NDArray[np.uint8], val: NDArray[np.uint8], preparation: Preparation, seed: int
) -> ChestCheck:
    """Fit the layer `chest` of a trained network in place, and choose the threshold; pictures are (N, size, size)."""
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    features = keras.Model(model.input, model.get_layer(FEATURES).output)

    def look(images: Floats) -> Floats:
        return np.asarray(features.predict(images, batch_size=256, verbose="0"), np.float64)

    chosen = train[rng.choice(len(train), min(len(train), PICTURES // 2), replace=False)]
    chests = _with_augmented(preparation.normalise(chosen), seed, copies=1)
    others = preparation.normalise(draw_outliers(PICTURES, train, rng))
    scaler = StandardScaler()
    inputs = scaler.fit_transform(look(np.concatenate([chests, others])))
    truth = np.repeat([1, 0], [len(chests), len(others)])
    fitted = LogisticRegression(C=0.01, max_iter=300).fit(inputs, truth)
    weights = fitted.coef_[0] / scaler.scale_
    bias = fitted.intercept_[0] - weights @ scaler.mean_
    model.get_layer(OUTPUT).set_weights([weights[:, None], np.array([bias])])
    seen = look(_with_augmented(preparation.normalise(val), seed + 1, copies=3)) @ weights + bias
    return _check(seen, look(preparation.normalise(draw_outliers(PICTURES // 4, val, rng))) @ weights + bias)


def _check(chests: Floats, others: Floats) -> ChestCheck:
    cut = min(0.0, float(np.quantile(chests, DOUBTED)) - MARGIN)
    return ChestCheck(
        threshold=float(1 / (1 + np.exp(-cut))),
        chosen=(
            f"The likeness that all but {DOUBTED:.1%} of validation X-rays reach, also augmented ones, less a margin; "
            f"{np.mean(others < cut):.1%} of drawn pictures that are no chest X-ray stay below it."
        ),
    )


def _with_augmented(images: NDArray[np.float32], seed: int, copies: int) -> NDArray[np.float32]:
    import tensorflow as tf

    from lungline.augment import augment

    changed = [augment(tf.constant(images), 1.0, tf.constant([seed, copy])).numpy() for copy in range(copies)]
    return np.concatenate([images, *changed])
