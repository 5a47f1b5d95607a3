"""Training: class-balanced batches, augmentation in the graph, AdamW on a cosine schedule, averaged weights.

Each image is cropped to its lungs; its surroundings are swapped or its lungs hidden at random (see `surroundings`).
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.evaluation.metrics import auc
from lungline.imaging.preparation import Preparation
from lungline.package.card import Calibration, Card, ChestCheck, CodeFacts, DataFacts, Prior, Thresholds
from lungline.settings import ModelSettings, Settings, TrainSettings
from lungline.training.augment import augment, disturbed, reframe
from lungline.training.calibration import choose_prior, choose_thresholds, fit_calibration
from lungline.training.embedding import fit_embedding
from lungline.training.export import round_weights
from lungline.training.lung_crop import crop, lung_box
from lungline.training.lungs import SIDE, fields_of, lung_model
from lungline.training.network import CLASSIFIER, SEGMENTER, build
from lungline.training.ood_check import fit_chest_check
from lungline.training.surroundings import mix_surroundings

if TYPE_CHECKING:
    import keras

    from lungline.datasets.opening import Prepared

# Augmented copies of each validation image for choosing the operating point.
FORMS = 4
# Deviation of the crop's edges during training, as a share of the image: the segmenter's own errors are smaller.
JITTER = 0.02

__all__ = ["Epoch", "Trained", "build", "logits", "preparation_of", "train"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The state of a training run after an epoch; `seconds` counts from the start of the run."""

    number: int
    of: int
    loss: float
    val_auc: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network with the values that its card needs."""

    model: "keras.Model"
    preparation: Preparation
    history: tuple[Epoch, ...]
    calibration: Calibration
    prior: Prior
    thresholds: Thresholds
    chest: ChestCheck
    seconds: float

    def card(self, data: DataFacts, code: CodeFacts, settings: Settings) -> Card:
        """The card of this run; `amend_card` adds metrics, run ids and version later."""
        return Card(
            name=settings.model_name,
            preparation=self.preparation,
            thresholds=self.thresholds,
            calibration=self.calibration,
            prior=self.prior,
            chest=self.chest,
            lungs=lung_model(),
            data=data,
            code=code,
            seed=settings.train.seed,
            settings={"model": settings.model.model_dump(), "train": settings.train.model_dump()},
        )


def preparation_of(settings: ModelSettings) -> Preparation:
    """The preparation of images for the network of these settings."""
    return Preparation(size=settings.size, geometry=settings.geometry, normalisation=settings.normalisation, trim=True)


def train(prepared: "Prepared", settings: Settings, on_epoch: Callable[[Epoch], None] | None = None) -> Trained:
    """Train on the train split; calibrate and choose thresholds on the val split.

    The same data, settings and machine give the same weights to within floating-point order.
    """
    started = time.monotonic()
    preparation = preparation_of(settings.model)
    pixels, labels = prepared.of("train")
    val_pixels, val_labels = prepared.of("val")
    val_images = preparation.normalise(val_pixels)
    model = build(settings.model, settings.train.seed)
    loop = _Loop(model, preparation, pixels, labels, settings.train)
    history: list[Epoch] = []
    for number in range(1, settings.train.epochs + 1):
        loss, rate = loop.epoch()
        val_auc = auc(val_labels, logits(loop.averaged, val_images))
        history.append(Epoch(number, settings.train.epochs, loss, val_auc, rate, time.monotonic() - started))
        if on_epoch:
            on_epoch(history[-1])
    round_weights(loop.averaged)
    chest = fit_chest_check(loop.averaged, pixels, val_pixels, preparation, settings.train.seed)
    fit_embedding(loop.averaged, pixels, preparation, settings.train.seed)
    network = loop.averaged
    round_weights(network)
    val_logits = logits(network, val_images)
    calibration = fit_calibration(val_logits, val_labels)
    prior = choose_prior(val_labels, settings.train)
    forms = disturbed(val_pixels, preparation, copies=FORMS, strength=1.0, seed=settings.train.seed)
    thresholds = choose_thresholds(
        calibration.probability(val_logits),
        val_labels,
        settings.train,
        calibration.probability(logits(network, forms)).reshape(FORMS, -1),
        prior=prior,
    )
    seconds = time.monotonic() - started
    return Trained(network, preparation, tuple(history), calibration, prior, thresholds, chest, seconds)


def logits(model: "keras.Model", images: NDArray[np.float32], batch: int = 256) -> NDArray[np.float64]:
    """Logits (N,) of prepared images, in batches."""
    outputs = model.predict(images, batch_size=batch, verbose="0")
    return np.asarray(outputs["logit"], np.float64).ravel()


class _Loop:
    """The state of a run: the classifier that is trained, and the network with its averaged weights that is kept."""

    def __init__(
        self,
        network: "keras.Model",
        preparation: Preparation,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        settings: TrainSettings,
    ) -> None:
        import keras

        self.averaged, self.settings = network, settings
        self.kept: Any = network.get_layer(CLASSIFIER)
        self.model = keras.models.clone_model(self.kept)
        self.model.set_weights(self.kept.get_weights())
        self.preparation, self.pixels, self.labels = preparation, pixels, labels
        self.random = np.random.default_rng(settings.seed)
        self.steps = math.ceil(len(labels) / settings.batch)
        self.total, self.done = self.steps * settings.epochs, 0
        self.optimizer: Any = keras.optimizers.AdamW(weight_decay=settings.weight_decay)
        self.optimizer.build(self.model.trainable_variables)
        self._step = _compile(self)

    def epoch(self) -> tuple[float, float]:
        """One pass; returns the mean loss and the last learning rate."""
        import tensorflow as tf

        total, rate = 0.0, 0.0
        images = self.preparation.normalise(reframe(self.pixels, self.settings.augment, self.random))
        fields = fields_of(self.averaged.get_layer(SEGMENTER), images)
        for _ in range(self.steps):
            rows = self._balanced()
            rate = self._rate()
            # Early averages forget the random start quickly; later ones settle at the set decay.
            decay = min(self.settings.ema_decay, (1 + self.done) / (10 + self.done))
            seed = self.random.integers(0, 2**31 - 1, 2, dtype=np.int32)
            batch = images[rows], fields[rows], self.labels[rows].astype(np.float32)[:, None]
            total += float(self._step(tuple(map(tf.constant, batch)), *map(tf.constant, (seed, rate, decay))))
            self.done += 1
        return total / self.steps, rate

    def _balanced(self) -> NDArray[np.int_]:
        half = self.settings.batch // 2
        sides = [np.flatnonzero(self.labels == label) for label in (0, 1)]
        return np.concatenate([self.random.choice(rows, half, replace=len(rows) < half) for rows in sides])

    def _rate(self) -> float:
        warm = min(1.0, (self.done + 1) / max(1, self.total // 20))
        return self.settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.done / self.total))


def _compile(loop: _Loop) -> Any:
    import tensorflow as tf

    model, optimizer, settings = loop.model, loop.optimizer, loop.settings

    @tf.function(reduce_retracing=True)
    def step(batch: tuple[Any, Any, Any], seed: Any, rate: Any, decay: Any) -> Any:
        images, fields, labels = batch
        inputs, hidden = _disturb(model, images, fields, seed, settings)
        target = labels * (1 - settings.smoothing) + settings.smoothing / 2
        target = target * (1 - hidden) + 0.5 * hidden  # batches are balanced: without lungs, both are as likely
        with tf.GradientTape() as tape:
            predicted = model(inputs, training=True)["logit"]
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=predicted))
        optimizer.learning_rate.assign(rate)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        for kept, new in zip(loop.kept.weights, model.weights, strict=True):
            if new.dtype == "float32":
                kept.assign(decay * kept + (1 - decay) * new)
        return loss

    return step


def _disturb(model: Any, images: Any, fields: Any, seed: Any, settings: TrainSettings) -> tuple[list[Any], Any]:
    """The classifier's inputs for a batch with other surroundings, framing and exposure, and whose lungs are hidden."""
    import tensorflow as tf

    seeds = tf.unstack(tf.random.split(seed, 3))
    images, hidden = mix_surroundings(images, fields, seeds[0], swap=settings.swap, cover=settings.cover)
    size = images.shape[1:3]
    both: Any = tf.concat([images, tf.image.resize(fields[..., None], size)], axis=-1)
    both = augment(both, settings.augment, seeds[1])  # the field moves with the image
    field: Any = tf.image.resize(both[..., 1:], (SIDE, SIDE))[..., 0]
    box = lung_box(field)
    box += tf.random.stateless_normal(tf.shape(box), seeds[2], stddev=JITTER * settings.augment)
    (_, side, *_), (_, places, _) = model.input_shape
    return [crop(both[..., 0], box, side)[..., None], crop(field, box, places)], hidden
