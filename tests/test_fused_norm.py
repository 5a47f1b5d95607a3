"""The copy that trains computes what the network that is kept would, only sooner."""

from typing import Any

import numpy as np
import pytest

from lungline.settings import ModelSettings
from lungline.training.fused_norm import fused
from lungline.training.network import CLASSIFIER, build

SIZE = 64


@pytest.fixture(scope="module")
def network() -> Any:
    return build(ModelSettings(size=SIZE, width=4))


def batch(classifier: Any) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.random((4, *tensor.shape[1:])).astype(np.float32) for tensor in classifier.inputs]


def test_a_copy_for_batches_gives_the_same_outputs(network: Any) -> None:
    images = np.random.default_rng(0).random((4, SIZE, SIZE, 1)).astype(np.float32)
    plain, fast = (model(images, training=False) for model in (network, fused(network)))
    assert set(fast) == set(plain)
    for name, values in plain.items():
        np.testing.assert_allclose(fast[name], values, atol=1e-3, err_msg=name)


def test_a_step_normalises_and_remembers_as_keras_does(network: Any) -> None:
    """Few places a channel: there the variance of a batch and that of a sample differ most."""
    import keras

    classifier = network.get_layer(CLASSIFIER)
    plain = keras.models.clone_model(classifier)
    plain.set_weights(classifier.get_weights())
    fast = fused(classifier)
    before = fast.get_weights()
    # The same seed drops the same channels of both.
    evidence: list[Any] = []
    for model in (plain, fast):
        keras.utils.set_random_seed(3)
        model.get_layer("dropout").rate = 0.0
        evidence.append(model(batch(classifier), training=True)["evidence"])
    np.testing.assert_allclose(evidence[1], evidence[0], atol=1e-3)
    moved = 0
    for kept, expected, weight in zip(before, plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-4)
        moved += not np.array_equal(weight, kept)
    assert moved >= 2 * sum("norm" in layer.name or "bn" in layer.name for layer in plain.layers if layer.weights)


def test_the_network_that_is_kept_has_layers_that_keras_knows(network: Any) -> None:
    fused(network)
    kinds = {type(layer).__name__ for layer in network.get_layer(CLASSIFIER).layers}
    assert "BatchNormalization" in kinds
    assert "FusedNorm" not in kinds
