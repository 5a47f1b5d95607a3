"""The lung segmenter: a small U-shaped network that outlines both lungs, and the command that trains it.

    python -m lungline.training.lungs --data chest_xray.zip --outlines lungs.npz [--folds 3]

Its weights are kept beside this file, so a classifier can be trained where no outlines are at hand.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import DataError
from lungline.package.card import LungModel
from lungline.training.lung_outlines import Outlined, disguise, read_outlined

if TYPE_CHECKING:
    import keras

# Side of the segmenter's input and output in pixels: the lungs' edge is known to 2 % of the image.
SIDE = 48
WEIGHTS = Path(__file__).with_name("lung_weights.npz")
SOURCE = (
    "Lung outlines by V7 Labs and CloudFactory, CC BY 4.0, of pictures by Kermany, Zhang and Goldbaum, CC BY 4.0: "
    "children of one to five years."
)
EPOCHS, BATCH, RATE = 9, 32, 3e-3
# Outlines that agree less than this with one drawn by a person are not learnt from.
TRUSTED = 88


@dataclass(frozen=True, slots=True)
class FoldScore:
    """Overlap (Dice) with the outlines of patients that the network has not seen."""

    fold: int
    images: int
    median: float
    worst_twentieth: float
    median_disguised: float


def build_segmenter() -> "keras.Model":
    """An untrained segmenter: image (N, 48, 48, 1) in 0..1 -> logits (N, 48, 48, 1) of belonging to a lung."""
    import keras

    layers: Any = keras.layers
    image = keras.Input((SIDE, SIDE, 1), name="small")
    half = _conv(_conv(image, 8, "in", stride=2), 12, "half")
    quarter = _conv(_conv(half, 24, "to_quarter", stride=2), 24, "quarter")
    eighth = _conv(_conv(quarter, 32, "to_eighth", stride=2), 32, "eighth")
    # At 3 x 3 each place sees the whole image: a lung is known by its neighbours.
    whole = _conv(_conv(eighth, 32, "to_whole", stride=2), 32, "whole")
    x = whole
    for skip, channels, name in ((eighth, 32, "up_eighth"), (quarter, 24, "up_quarter"), (half, 12, "up_half")):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        x = _conv(layers.Concatenate()([x, skip]), channels, name)
    x = layers.Conv2D(1, 1, name="lungs_logits_half")(x)
    return keras.Model(image, layers.UpSampling2D(2, interpolation="bilinear", name="lungs_logits")(x), name="lungs")


def _conv(x: Any, channels: int, name: str, stride: int = 1) -> Any:
    import keras

    x = keras.layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=f"lungs_{name}")(x)
    x = keras.layers.BatchNormalization(momentum=0.95, name=f"lungs_{name}_norm")(x)
    return keras.layers.ReLU(name=f"lungs_{name}_relu")(x)


def load_segmenter(file: Path = WEIGHTS) -> "keras.Model":
    """The segmenter with the weights that come with the project, frozen: logits and features (N, 6, 6, 32)."""
    import keras

    model = build_segmenter()
    with np.load(file, allow_pickle=False) as stored:
        model.set_weights([stored[f"w{at:02d}"].astype(np.float32) for at in range(len(stored.files))])
    whole = keras.Model(model.input, [model.output, model.get_layer("lungs_eighth_relu").output], name="lungs")
    whole.trainable = False
    return whole


def lung_model(file: Path = WEIGHTS) -> LungModel:
    """What a card says of the segmenter."""
    return LungModel(source=SOURCE, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def save_segmenter(model: "keras.Model", file: Path = WEIGHTS) -> None:
    """Write the weights as 16-bit floats, half the size: the overlap does not change in four digits."""
    arrays = {f"w{at:02d}": weight.astype(np.float16) for at, weight in enumerate(model.get_weights())}
    np.savez_compressed(file, allow_pickle=False, **arrays)


def fit_segmenter(
    images: NDArray[np.uint8], fields: NDArray[np.uint8], *, epochs: int = EPOCHS, seed: int = 0
) -> "keras.Model":
    """A segmenter trained on images (N, 48, 48) and their lung fields, 0 or 1, of the same shape."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = build_segmenter()
    steps = -(-len(images) // BATCH) * epochs
    rate: Any = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), _loss)
    for number in range(epochs):
        changed, targets = disguise(images, fields, rng)
        history: Any = model.fit(changed[..., None], targets[..., None], BATCH, 1, verbose="0")
        print(f"epoch {number + 1}/{epochs}: loss {history.history['loss'][0]:.4f}", flush=True)
    return model


def _loss(target: Any, logits: Any) -> Any:
    """Cross-entropy for each pixel, and the overlap for the shape as a whole."""
    import tensorflow as tf

    target = tf.cast(target, tf.float32)
    cross = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits))
    p = tf.sigmoid(logits)
    both = 2 * tf.reduce_sum(p * target, axis=(1, 2, 3)) + 1.0
    overlap = both / (tf.reduce_sum(p, axis=(1, 2, 3)) + tf.reduce_sum(target, axis=(1, 2, 3)) + 1.0)
    return cross + 0.5 * (1 - tf.reduce_mean(overlap))


def fields_of(model: "keras.Model", images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lung fields (N, 48, 48) in 0..1 of prepared images (N, size, size, 1)."""
    import keras
    import tensorflow as tf

    predict: Any = model.predict_on_batch
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(images), 256):
        small = tf.image.resize(images[start : start + 256], (SIDE, SIDE))
        parts.append(np.asarray(keras.ops.sigmoid(_outline(predict(small))))[..., 0])
    return np.concatenate(parts) if parts else np.zeros((0, SIDE, SIDE), np.float32)


def _outline(outputs: Any) -> Any:
    """The logits, of a segmenter with or without its features."""
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Overlap of masks (N, h, w), from 0 to 1."""
    both = (first & second).sum(axis=(1, 2))
    return 2 * both / np.maximum(1, first.sum(axis=(1, 2)) + second.sum(axis=(1, 2)))


def cross_validate(data: Outlined, folds: int, *, epochs: int = EPOCHS, seed: int = 0) -> list[FoldScore]:
    """Train without each part of the patients in turn, and score on that part."""
    patients = np.unique(data.patients)
    fold_of = dict(zip(patients, np.random.default_rng(seed).permutation(len(patients)) % folds, strict=True))
    place = np.array([fold_of[patient] for patient in data.patients])
    scores: list[FoldScore] = []
    for fold in range(folds):
        learnt, held = (place != fold) & (data.trust >= TRUSTED), (place == fold) & (data.trust >= TRUSTED)
        model = fit_segmenter(data.images[learnt], data.fields[learnt], epochs=epochs, seed=seed + fold)
        plain = _overlaps(model, data.images[held] * np.float32(1 / 255), data.fields[held])
        changed, targets = disguise(data.images[held], data.fields[held], np.random.default_rng(seed))
        disguised = _overlaps(model, changed, targets)
        score = FoldScore(
            fold,
            int(held.sum()),
            round(float(np.median(plain)), 4),
            round(float(np.quantile(plain, 0.05)), 4),
            round(float(np.median(disguised)), 4),
        )
        print(score, flush=True)
        scores.append(score)
    return scores


def _overlaps(model: "keras.Model", images: NDArray[np.float32], fields: NDArray[np.uint8]) -> NDArray[np.float64]:
    return dice(fields_of(model, images[..., None].astype(np.float32)) >= 0.5, fields > 0)


def main() -> None:
    """Train on all outlined X-rays and write the weights; with --folds, score by cross-validation first."""
    parser = argparse.ArgumentParser(prog="python -m lungline.training.lungs", description=main.__doc__)
    parser.add_argument("--data", required=True, help="Data set with the X-rays that were outlined.")
    parser.add_argument("--outlines", type=Path, required=True, help="File of lung fields (.npz).")
    parser.add_argument("--folds", type=int, default=0, help="Parts of the patients for cross-validation.")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="Passes over the X-rays.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of weights and augmentation.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="File to write the weights to.")
    given = parser.parse_args()
    data = read_outlined(given.data, given.outlines, SIDE)
    if given.folds > 1:
        scores = cross_validate(data, given.folds, epochs=given.epochs, seed=given.seed)
        print(json.dumps([asdict(score) for score in scores]))
    chosen = data.trust >= TRUSTED
    if not chosen.any():
        raise DataError(f"No outline in {given.outlines.name} has a trust of at least {TRUSTED}.")
    model = fit_segmenter(data.images[chosen], data.fields[chosen], epochs=given.epochs, seed=given.seed)
    save_segmenter(model, given.out)


if __name__ == "__main__":
    main()
