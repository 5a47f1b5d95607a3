"""The embedding: an image in sixteen numbers, computed from the network's own features.

Monitoring compares the embeddings of production data with those of validation: they differ by scanner, framing and age
where statistics of grey levels do not. Principal components of the training images, each scaled to unit variance, so
that none dominates.
"""

# pyright: basic
# Keras ships no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lungline.training.network import EMBEDDED, EMBEDDING
from lungline.training.views import Floats

if TYPE_CHECKING:
    import keras

# Principal components of some hundred features converge with far fewer.
IMAGES = 1500


def embedding_rows(count: int, seed: int) -> NDArray[np.intp]:
    """Which of so many training images the embedding is fitted on."""
    return np.random.default_rng(seed).choice(count, min(count, IMAGES), replace=False)


def fit_embedding(model: "keras.Model", seen: Floats) -> None:
    """Fit the layer `embedding` of a trained network in place; `seen` is what its layer FEATURES makes of images."""
    features = np.asarray(seen, np.float64)
    middle = features.mean(axis=0)
    _, sizes, axes = np.linalg.svd(features - middle, full_matrices=False)
    spread = sizes / np.sqrt(max(1, len(features) - 1))
    weights = np.zeros((features.shape[1], EMBEDDED))
    # A few images have fewer axes than the embedding has numbers; the rest stays zero.
    held = min(EMBEDDED, int(np.sum(spread > 1e-6 * max(spread[0], 1e-12))))
    weights[:, :held] = axes[:held].T / spread[:held]
    model.get_layer(EMBEDDING).set_weights([weights, -middle @ weights])
