"""A Keras model in the two forms that a package holds."""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungline.training.quiet import quiet

if TYPE_CHECKING:
    import keras


def export(model: "keras.Model", lite: Path, saved: Path) -> None:
    """Write a LiteRT file and a SavedModel with the signature image -> the model's outputs by name."""
    import tensorflow as tf

    shape = (None, *model.input_shape[1:])
    call = tf.function(
        lambda image: model(image, training=False), input_signature=[tf.TensorSpec(shape, tf.float32, name="image")]
    )
    # Not Keras's own export of a SavedModel: it writes each weight twice, and a package is meant to be small.
    module: Any = tf.Module()
    module.held, module.serve = model.weights, call
    with quiet():
        model.export(str(lite), format="litert", verbose=False)
        tf.saved_model.save(module, str(saved), signatures=call)
