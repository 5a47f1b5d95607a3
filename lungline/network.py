"""The network: a small residual stack of separable convolutions that ends in a map of local evidence.

The picture's logit is the mean of that map, so the map is an exact class activation map from the same forward pass
and the same weights: no gradients, no second model.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING, Any

from lungline.settings import ModelSettings

if TYPE_CHECKING:
    import keras


def build(settings: ModelSettings, seed: int = 0) -> "keras.Model":
    """An untrained network: image (N, size, size, 1) in 0..1 -> `logit` (N, 1) and `cam` (N, size/8, size/8)."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((settings.size, settings.size, 1), name="image")
    x = layers.Rescaling(4.0, offset=-2.0)(image)
    x = _norm(layers.Conv2D(settings.width, 3, strides=2, padding="same", use_bias=False)(x))
    for factor, blocks, stride in ((2, 2, 2), (4, 3, 2), (6, 1, 1)):
        for index in range(blocks):
            x = _block(x, settings.width * factor, stride if index == 0 else 1)
    x = layers.SpatialDropout2D(settings.dropout)(x)
    evidence = layers.Conv2D(1, 1, name="evidence")(x)
    return keras.Model(
        image,
        {
            "logit": layers.GlobalAveragePooling2D(name="logit")(evidence),
            "cam": layers.Reshape(evidence.shape[1:3], name="cam")(evidence),
        },
        name="pneumonia",
    )


def _norm(x: Any, *, active: bool = True) -> Any:
    import keras

    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.Activation("relu")(x) if active else x


def _block(x: Any, channels: int, stride: int) -> Any:
    """Two separable convolutions beside a shortcut."""
    import keras

    layers = keras.layers
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        pooled = layers.AveragePooling2D(stride)(x) if stride > 1 else x
        shortcut = _norm(layers.Conv2D(channels, 1, use_bias=False)(pooled), active=False)
    x = layers.SeparableConv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
    x = _norm(x)
    x = layers.SeparableConv2D(channels, 3, padding="same", use_bias=False)(x)
    x = _norm(x, active=False)
    return layers.Activation("relu")(layers.Add()([x, shortcut]))
