"""A copy of a network for many batches: TensorFlow computes each normalisation in one kernel.

Keras writes a batch normalisation as a dozen products and means over the whole batch, which took two fifths of a
training step. The kernel gives the same values to within floating-point order. The network that is kept has Keras's own
layers, so that anybody can load it without this project.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def fused(model: "keras.Model") -> "keras.Model":
    """A copy with the same weights and layer names, also of the models inside it."""
    import keras

    made: Any = keras.models.clone_model(model, clone_function=_copy_of, recursive=True)
    made.set_weights(model.get_weights())
    return made


def _copy_of(layer: Any) -> Any:
    import keras

    # The kernel knows images only, with both a scale and a shift.
    dimensions: Any = getattr(getattr(layer, "input_spec", None), "ndim", None)
    is_norm = type(layer) is keras.layers.BatchNormalization and layer.scale and layer.center
    kind: Any = _fused_norm() if is_norm and dimensions == 4 else type(layer)
    return kind.from_config(layer.get_config())


@cache
def _fused_norm() -> Any:
    """The layer's class; made when needed, because importing Keras takes seconds."""
    import keras
    import tensorflow as tf

    class FusedNorm(keras.layers.BatchNormalization):
        """Batch normalisation of images (N, h, w, channels) in one kernel."""

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG002 - Keras's
            learns = bool(training and self.trainable)
            none = tf.constant([], tf.float32)
            moving: Any = (self.moving_mean, self.moving_variance)
            means, variances = (none, none) if learns else (tf.convert_to_tensor(value) for value in moving)
            outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=tf.convert_to_tensor(self.gamma),
                offset=tf.convert_to_tensor(self.beta),
                mean=means,
                variance=variances,
                epsilon=self.epsilon,
                is_training=learns,
            )
            if learns:
                count = tf.cast(tf.size(inputs) // tf.size(mean), tf.float32)
                variance *= (count - 1) / count  # the kernel's is that of a sample, Keras's that of the batch
                for kept, new in zip(moving, (mean, variance), strict=True):
                    kept.assign(kept * self.momentum + new * (1 - self.momentum))
            return outputs

    return FusedNorm
