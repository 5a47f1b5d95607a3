"""The chest check: whether an image is a frontal chest X-ray at all, from the network's own features.

One more weighted sum in the same forward pass, fitted after training on X-rays and on images that are none.
"""

# pyright: basic
# Keras and scikit-learn ship no usable types: strictness here would only collect casts.
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.package.card import ChestCheck
from lungline.training.augment import disturbed
from lungline.training.network import FEATURES, OUTPUT
from lungline.training.outliers import draw_outliers

if TYPE_CHECKING:
    import keras

Floats = NDArray[np.floating[Any]]

# Enough for the few hundred weights; more costs time and changes nothing.
IMAGES = 1800
# Real X-rays of the val split, whole and augmented, that may be doubted. The share grows on X-rays from elsewhere.
DOUBTED = 0.002
# Distance in logits that the threshold keeps below that quantile, for the same reason.
MARGIN = 0.5


def fit_chest_check(
    model: "keras.Model", train: NDArray[np.uint8], val: NDArray[np.uint8], preparation: Preparation, seed: int
) -> ChestCheck:
    """Fit the layer `chest` of a trained network in place, and choose the threshold; images are (N, size, size)."""
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    features = keras.Model(model.input, model.get_layer(FEATURES).output)

    def look(images: Floats) -> Floats:
        return np.asarray(features.predict(images, batch_size=256, verbose="0"), np.float64)

    chosen = train[rng.choice(len(train), min(len(train), IMAGES // 2), replace=False)]
    chests = np.concatenate([preparation.normalise(chosen), _changed(chosen, preparation, copies=1, seed=seed)])
    others = preparation.normalise(draw_outliers(min(IMAGES, 6 * len(chosen)), train, rng))
    scaler = StandardScaler()
    inputs = scaler.fit_transform(look(np.concatenate([chests, others])))
    truth = np.repeat([1, 0], [len(chests), len(others)])
    fitted = LogisticRegression(C=0.01, max_iter=300).fit(inputs, truth)
    weights = fitted.coef_[0] / scaler.scale_
    bias = fitted.intercept_[0] - weights @ scaler.mean_
    model.get_layer(OUTPUT).set_weights([weights[:, None], np.array([bias])])
    held = np.concatenate([preparation.normalise(val), _changed(val, preparation, copies=3, seed=seed + 1)])
    seen = look(held) @ weights + bias
    return _check(seen, look(preparation.normalise(draw_outliers(len(others) // 4, val, rng))) @ weights + bias)


def _changed(pixels: NDArray[np.uint8], preparation: Preparation, *, copies: int, seed: int) -> NDArray[np.float32]:
    """X-rays tilted, cut and exposed twice as badly as those that the network learns from: they are still chests."""
    return disturbed(pixels, preparation, copies=copies, strength=2.0, seed=seed)


def _check(chests: Floats, others: Floats) -> ChestCheck:
    cut = min(0.0, float(np.quantile(chests, DOUBTED)) - MARGIN)
    return ChestCheck(
        threshold=float(1 / (1 + np.exp(-cut))),
        chosen=(
            f"The likeness that all but {DOUBTED:.1%} of validation X-rays reach, also augmented ones, less a margin; "
            f"{np.mean(others < cut):.1%} of drawn images that are no chest X-ray stay below it."
        ),
    )
