"""Augmentation that mimics other scanners: position, tilt, aspect, exposure, gamma, blur, noise.

Works on whole batches inside the training graph, so that it costs a few milliseconds a step.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf


def augment(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Change float32 images (N, size, size, 1) in 0..1 at random; `seed` is an int32 pair that fixes the outcome."""
    import tensorflow as tf

    if strength == 0:
        return images
    seeds = tf.unstack(tf.random.split(seed, 4))
    images = _place(images, strength, seeds[0])
    images = _expose(images, strength, seeds[1])
    images = _soften(images, strength, seeds[2])
    (level,) = _uniform(tf.shape(images)[0], seeds[3], 0.06 * strength, 1)
    noise = tf.random.stateless_normal(tf.shape(images), seeds[3])
    return tf.clip_by_value(images + tf.reshape(level, (-1, 1, 1, 1)) * noise, 0.0, 1.0)


def _uniform(count: Any, seed: "tf.Tensor", reach: float, columns: int) -> "list[tf.Tensor]":
    import tensorflow as tf

    return tf.unstack(tf.random.stateless_uniform((count, columns), seed, -reach, reach), axis=1)


def _place(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Shift, tilt, zoom and stretch, and mirror half of the images."""
    import tensorflow as tf

    count, size = tf.shape(images)[0], int(images.shape[1] or 0)
    tilt, zoom, aspect, right, down, mirror = _uniform(count, seed, 1.0, 6)
    tilt, side = tilt * 0.2 * strength, tf.sign(mirror)
    wide = tf.exp((zoom * 0.15 + aspect * 0.12) * strength) * side
    high = tf.exp((zoom * 0.15 - aspect * 0.12) * strength)
    a, b = wide * tf.cos(tilt), -high * tf.sin(tilt)
    c, d = wide * tf.sin(tilt), high * tf.cos(tilt)
    centre = (size - 1) / 2
    x = centre - centre * (a + b) + right * 0.1 * strength * size
    y = centre - centre * (c + d) + down * 0.1 * strength * size
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x, c, d, y, zero, zero], axis=1),
        output_shape=tf.constant([size, size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _expose(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Change gamma, contrast and brightness."""
    import tensorflow as tf

    shape = (-1, 1, 1, 1)
    gamma, contrast, brightness = _uniform(tf.shape(images)[0], seed, strength, 3)
    images = tf.pow(tf.clip_by_value(images, 1e-4, 1.0), tf.reshape(tf.exp(gamma * 0.4), shape))
    images = (images - 0.5) * tf.reshape(tf.exp(contrast * 0.3), shape) + 0.5
    return tf.clip_by_value(images + tf.reshape(brightness * 0.15, shape), 0.0, 1.0)


def _soften(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Blur some of the images and sharpen others."""
    import tensorflow as tf

    blurred = tf.nn.avg_pool2d(images, 3, 1, "SAME")
    (share,) = _uniform(tf.shape(images)[0], seed, strength, 1)
    return tf.clip_by_value(images + tf.reshape(share, (-1, 1, 1, 1)) * (blurred - images), 0.0, 1.0)
