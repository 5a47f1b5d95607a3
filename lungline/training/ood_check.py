"""The chest check: whether an image is an upright frontal chest X-ray at all, from the network's own feature maps.

A small head in the same forward pass, fitted after training on X-rays and on eleven kinds of images that are none.
"""

# pyright: basic
# Keras ships no usable types: strictness here would only collect casts.
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.package.card import ChestCheck
from lungline.training.augment import disturbed
from lungline.training.export import round_weights
from lungline.training.network import (
    CHEST_HIDDEN,
    CHEST_KINDS,
    CHEST_LOOKS,
    CHEST_MAPS,
    CHEST_MIX,
    OUTPUT,
    SMALL,
    chest_head,
)
from lungline.training.outliers import HARDEST, KINDS, draw_hardest, draw_outliers, resharpened
from lungline.training.screens import annotated
from lungline.training.views import Floats, outputs_of

if TYPE_CHECKING:
    import keras

# Chest X-rays that the check is fitted on as they are; half as many augmented and half as many resharpened ones come on
# top. More cost time and changed little.
CHESTS, OUTLIERS_A_KIND = 2000, 450
EPOCHS, BATCH = 14, 128
# Images that are prepared at once.
_BLOCK = 500
# Share of validation X-rays, plain and augmented, that may be doubted.
DOUBTED = 0.0125


@dataclass(frozen=True, slots=True)
class Lesson:
    """The images that the check learns from besides the X-rays at `rows` of the training split; uint8 (N, size, size).

    They depend on the data and the seed alone, so they can be drawn while the network trains.
    """

    seed: int
    rows: NDArray[np.intp]
    half: NDArray[np.uint8]
    soft: NDArray[np.uint8]
    outliers: NDArray[np.uint8]
    harder: NDArray[np.uint8]
    harder_places: NDArray[np.int_]
    held_outliers: NDArray[np.uint8]


def draw_lesson(train: NDArray[np.uint8], val: NDArray[np.uint8], seed: int) -> Lesson:
    """Choose the X-rays of a lesson, and draw its other images."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(train), min(len(train), CHESTS), replace=False)
    half = train[rows[: (len(rows) + 1) // 2]]
    soft = np.stack([_disguised(chest, rng) for chest in half])
    each = min(OUTLIERS_A_KIND, max(100, len(rows) // 4))
    outliers = draw_outliers(len(KINDS) * each, train, rng)
    harder, places = draw_hardest(len(HARDEST) * each, train, rng)
    return Lesson(seed, rows, half, soft, outliers, harder, places, draw_outliers(40 * len(KINDS), val, rng))


def fit_chest_check(
    model: "keras.Model",
    lesson: Lesson,
    chosen: tuple[Floats, Floats],
    val: NDArray[np.uint8],
    preparation: Preparation,
) -> ChestCheck:
    """Fit the chest check of a trained network in place, and choose its threshold.

    `chosen` are the check's inputs for the lesson's rows of the training split; `val` is uint8 (N, size, size).
    """
    seen = outputs_of(model, CHEST_MAPS, SMALL)
    features = [seen(_augmented(lesson.half, preparation, lesson.seed)), list(chosen)]
    for pixels in (lesson.soft, lesson.outliers, lesson.harder):
        blocks = (pixels[start : start + _BLOCK] for start in range(0, len(pixels), _BLOCK))
        features += [seen(preparation.normalise(block)) for block in blocks]
    chests = len(lesson.rows) + 2 * len(lesson.half)
    numbers = 1 + np.arange(len(lesson.outliers)) % len(KINDS)
    kinds = np.concatenate([np.zeros(chests, int), numbers, 1 + lesson.harder_places])
    maps, small = (np.concatenate(parts) for parts in zip(*features, strict=True))
    _fit_head(model, (maps, small), kinds, chests, lesson.seed)
    held = np.concatenate([preparation.normalise(val), _augmented(val, preparation, lesson.seed + 1, copies=2)])
    others = preparation.normalise(lesson.held_outliers)
    return _check(*(_likeness(model, *seen(images)) for images in (held, others)))


def _likeness(model: "keras.Model", maps: Floats, small: Floats) -> Floats:
    """Logits (N,) of the fitted check, from its inputs."""
    import keras

    inputs = [model.get_layer(name).output for name in (CHEST_MAPS, SMALL)]
    check: Any = keras.Model(inputs, model.get_layer(OUTPUT).output)
    return check.predict([maps, small], batch_size=256, verbose="0").ravel()


def _disguised(chest: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An X-ray blurred, sharpened, annotated or bordered: none of it tells a chest from another image."""
    annotate = rng.random()
    if annotate < 0.3:
        return annotated(chest, rng)
    return resharpened(annotated(chest, rng) if annotate < 0.5 else chest, rng)


def _augmented(pixels: NDArray[np.uint8], preparation: Preparation, seed: int, copies: int = 1) -> NDArray[np.float32]:
    """X-rays tilted, cut and exposed twice as badly as those that the network learns from: they are still chests."""
    return disturbed(pixels, preparation, copies=copies, strength=2.0, seed=seed)


def _fit_head(
    model: "keras.Model", features: tuple[Floats, Floats], kinds: NDArray[np.int_], chests: int, seed: int
) -> None:
    """Fit the head on feature maps (N, h, w, channels) and small images (N, 48, 48, 1); kind 0 is a chest."""
    import keras

    keras.utils.set_random_seed(seed)
    maps, small = features
    middle = maps[:chests].mean(axis=(0, 1, 2))
    spread = maps[:chests].std(axis=(0, 1, 2)) + 1e-3
    inputs = [keras.Input(maps.shape[1:]), keras.Input(small.shape[1:])]
    head = keras.Model(inputs, chest_head(*inputs, trainable=True, dropout=0.3))
    steps = EPOCHS * -(-len(maps) // BATCH)
    rate: Any = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    head.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    weights = {0: 1.0} | {at: 2.0 if kind in HARDEST else 1.0 for at, kind in enumerate(KINDS, start=1)}
    fit: Any = head.fit
    maps -= middle
    maps /= spread
    fit([maps, small], kinds, BATCH, EPOCHS, verbose=0, class_weight=weights)
    kernel, bias = head.get_layer(CHEST_MIX).get_weights()
    kernel = kernel / spread[:, None]  # the scaling of the features becomes part of the weights
    model.get_layer(CHEST_MIX).set_weights([kernel, bias - (middle[None] @ kernel[0, 0])[0]])
    for name in (*CHEST_LOOKS, CHEST_HIDDEN, CHEST_KINDS):
        model.get_layer(name).set_weights(head.get_layer(name).get_weights())
    round_weights(model)


def _check(chests: Floats, others: Floats) -> ChestCheck:
    cut = float(np.quantile(chests, DOUBTED))
    return ChestCheck(
        threshold=float(1 / (1 + np.exp(-cut))),
        chosen=(
            f"The likeness that all but {DOUBTED:.2%} of validation X-rays reach, also augmented ones; "
            f"{np.mean(others < cut):.1%} of images that are no upright frontal chest X-ray stay below it."
        ),
    )
