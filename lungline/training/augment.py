"""Augmentation that mimics other scanners and operators: framing, aspect, tilt, exposure, gamma, blur, noise.

Framing comes before normalisation, as for an image with another framing; the rest runs on whole batches inside the
training graph. It is mild on purpose: stronger forms cost more on clean X-rays than they gained on corrupted ones.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungline.imaging.preparation import Preparation

if TYPE_CHECKING:
    import tensorflow as tf

# Largest share of width and height to cut away before normalisation. More of the width: films are wider than high, so
# centre-cropping removes more there.
CUT = (0.10, 0.06)
# Mean share by which the images then shrink, so that unchanged images lie in the middle of the augmented range: at its
# edge, normal lungs that are framed closer than usual are predicted as positive.
SHRINK = 0.04


def reframe(pixels: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image (N, size, size) cropped at random and stretched to its size again."""
    count, size = len(pixels), pixels.shape[1]
    cut = rng.random((count, 2)) * np.minimum(np.array(CUT) * strength, 0.6) * size
    start = rng.random((count, 2)) * cut
    result = np.empty_like(pixels)
    for index, image in enumerate(pixels):
        (left, top), (wide, high) = start[index], size - cut[index]
        box = (left, top, left + wide, top + high)
        result[index] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    return result


def disturbed(
    pixels: NDArray[np.uint8], preparation: Preparation, *, copies: int, strength: float, seed: int
) -> NDArray[np.float32]:
    """`copies` augmented copies of each image (N, size, size), prepared: float32 (copies * N, size, size, 1)."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    made: list[NDArray[np.float32]] = []
    for copy in range(copies):
        framed = preparation.normalise(reframe(pixels, strength, rng))
        made.append(augment(tf.constant(framed), strength, tf.constant([seed, copy])).numpy())
    return np.concatenate(made)


def augment(images: Any, strength: float, seed: "tf.Tensor") -> Any:
    """Change float32 images (N, size, size, channels) in 0..1 at random; `seed`, an int32 pair, fixes the outcome.

    Channels beyond the first, such as a lung field, move with the image and keep their values.
    """
    import tensorflow as tf

    if strength == 0:
        return images
    seeds = tf.unstack(tf.random.split(seed, 5))
    images = _place(images, strength, seeds[0])
    images, others = images[..., :1], images[..., 1:]
    images = _soften(images, strength, seeds[1])
    images = _expose(images, strength, seeds[2])
    (level,) = _uniform(tf.shape(images)[0], seeds[3], 0.03 * strength, 1)
    noise = tf.random.stateless_normal(tf.shape(images), seeds[4])
    images = tf.clip_by_value(images + tf.reshape(level, (-1, 1, 1, 1)) * noise, 0.0, 1.0)
    return tf.concat([images, others], axis=-1) if others.shape[-1] else images


def _uniform(count: Any, seed: "tf.Tensor", reach: float, columns: int) -> "list[tf.Tensor]":
    import tensorflow as tf

    return tf.unstack(tf.random.stateless_uniform((count, columns), seed, -reach, reach), axis=1)


def _place(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Tilt, zoom, stretch and shift. Never mirror: the heart lies on one side."""
    import tensorflow as tf

    count, size = tf.shape(images)[0], int(images.shape[1] or 0)
    tilt, zoom, aspect, right, down = _uniform(count, seed, strength, 5)
    tilt = tilt * 0.12
    zoom = zoom * 0.1 + SHRINK * strength
    wide, high = tf.exp(zoom + aspect * 0.08), tf.exp(zoom - aspect * 0.08)
    a, b = wide * tf.cos(tilt), -high * tf.sin(tilt)
    c, d = wide * tf.sin(tilt), high * tf.cos(tilt)
    centre = (size - 1) / 2
    x = centre - centre * (a + b) + right * 0.06 * size
    y = centre - centre * (c + d) + down * 0.06 * size
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x, c, d, y, zero, zero], axis=1),
        output_shape=tf.constant([size, size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _soften(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Blur some of the images and sharpen others: sharpness depends on the scanner, not on the lungs."""
    import tensorflow as tf

    blurred = tf.nn.avg_pool2d(images, 3, 1, "SAME")
    (share,) = _uniform(tf.shape(images)[0], seed, min(strength, 1.0), 1)
    return tf.clip_by_value(images + tf.reshape(share, (-1, 1, 1, 1)) * (blurred - images), 0.0, 1.0)


def _expose(images: "tf.Tensor", strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """Change gamma, contrast and brightness."""
    import tensorflow as tf

    shape = (-1, 1, 1, 1)
    gamma, contrast, brightness = _uniform(tf.shape(images)[0], seed, strength, 3)
    images = tf.pow(tf.clip_by_value(images, 1e-4, 1.0), tf.reshape(tf.exp(gamma * 0.25), shape))
    images = (images - 0.5) * tf.reshape(tf.exp(contrast * 0.2), shape) + 0.5
    return tf.clip_by_value(images + tf.reshape(brightness * 0.1, shape), 0.0, 1.0)
