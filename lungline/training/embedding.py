"""The embedding: a picture in sixteen numbers, from the features that the network has anyway.

Monitoring compares these numbers of the field with those of validation: they see scanners, framing and ages that no
statistic of grey levels sees. Principal components of the training pictures, each with spread one, so that none
drowns the others.
"""

# pyright: basic
# Keras ships no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.training.network import EMBEDDED, EMBEDDING, FEATURES

if TYPE_CHECKING:
    import keras

# Principal components of some hundred features settle long before.
PICTURES = 1500


def fit_embedding(model: "keras.Model", train: NDArray[np.uint8], preparation: Preparation, seed: int) -> None:
    """Fit the layer `embedding` of a trained network in place; pictures are (N, size, size)."""
    import keras

    rng = np.random.default_rng(seed)
    chosen = preparation.normalise(train[rng.choice(len(train), min(len(train), PICTURES), replace=False)])
    look = keras.Model(model.input, model.get_layer(FEATURES).output)
    features = np.asarray(look.predict(chosen, batch_size=256, verbose="0"), np.float64)
    middle = features.mean(axis=0)
    _, sizes, axes = np.linalg.svd(features - middle, full_matrices=False)
    spread = sizes / np.sqrt(max(1, len(features) - 1))
    weights = np.zeros((features.shape[1], EMBEDDED))
    # A handful of pictures has fewer axes than numbers to fill; what is left says nothing and stays zero.
    held = min(EMBEDDED, int(np.sum(spread > 1e-6 * max(spread[0], 1e-12))))
    weights[:, :held] = axes[:held].T / spread[:held]
    model.get_layer(EMBEDDING).set_weights([weights, -middle @ weights])
