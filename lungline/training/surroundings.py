"""Teach the network that what lies around the lungs says nothing: swap it between images, and hide the lungs.

In the training data how a sick child lies and how the film is framed go with the label. A network that is shown lungs
with the surroundings of another image cannot use them; an image without lungs is to leave it undecided.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from typing import Any

# Half of the side of the rectangle that hides the lungs of some images, as shares of the image.
HALF_SIDES = (0.2, 0.38)


def mix_surroundings(images: Any, fields: Any, seed: Any, *, swap: float, cover: float) -> tuple[Any, Any]:
    """Change the surroundings of a batch (N, size, size, 1) with lung fields (N, h, w) in 0..1.

    A share `swap` of the images gets the surroundings of another image of the batch, a share `cover` loses its lungs.
    Returns the images and a mask (N, 1), 1 where the lungs are hidden.
    """
    import tensorflow as tf

    seeds = tf.unstack(tf.random.split(seed, 3))
    count: Any = tf.shape(images)[0]
    size = images.shape[1]
    near = tf.nn.max_pool2d(fields[..., None], 3, 1, "SAME")
    lungs = tf.image.resize(near, (size, size))
    chance = tf.random.stateless_uniform((count, 2), seeds[0])
    order = tf.argsort(tf.random.stateless_uniform((count,), seeds[1]))
    swapped = lungs * images + (1 - lungs) * tf.gather(images, order)
    images = tf.where(_each(chance[:, 0] < swap), swapped, images)
    hidden = chance[:, 1] < cover
    grey = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    mask = _hiding(lungs, count, size, seeds[2])
    return tf.where(_each(hidden), images * (1 - mask) + grey * mask, images), tf.cast(hidden, tf.float32)[:, None]


def _hiding(lungs: Any, count: Any, size: Any, seed: Any) -> Any:
    """What is painted over: the lungs' own shape for one half of the images, a rectangle for the other."""
    import tensorflow as tf

    draws = tf.random.stateless_uniform((count, 5), seed)
    steps = (tf.range(size, dtype=tf.float32)[None, :] + 0.5) / size
    halves = HALF_SIDES[0] + draws[:, :2] * (HALF_SIDES[1] - HALF_SIDES[0])
    centres = 0.5 + (draws[:, 2:4] - 0.5) * 0.16
    inside = [tf.abs(steps - centres[:, axis, None]) < halves[:, axis, None] for axis in (0, 1)]
    rectangle = tf.cast(inside[0][:, :, None] & inside[1][:, None, :], tf.float32)[..., None]
    return tf.where(_each(draws[:, 4] < 0.5), lungs, rectangle)


def _each(chosen: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(chosen, (-1, 1, 1, 1))
