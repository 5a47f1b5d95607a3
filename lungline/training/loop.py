"""One training run of the classifier: balanced batches, augmentation in the graph, AdamW on a cosine, averaged weights.

Each image is cropped to its lungs; its surroundings are swapped or its lungs hidden at random (see `surroundings`).
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.settings import TrainSettings
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.training.augment import augment, reframe
from lungline.training.fused_norm import fused
from lungline.training.lung_crop import crop, lung_box
from lungline.training.lungs import SIDE, fields_of
from lungline.training.network import CLASSIFIER, SEGMENTER
from lungline.training.surroundings import mix_surroundings

if TYPE_CHECKING:
    import keras

# Deviation of the crop's edges during training, as a share of the image: the segmenter's own errors are smaller.
JITTER = 0.02


@dataclass(frozen=True, slots=True)
class Epoch:
    """The state of a training run after an epoch; `seconds` counts from the start of the run."""

    number: int
    of: int
    loss: float
    val_auc: float
    learning_rate: float
    seconds: float


def logits(model: "keras.Model", images: NDArray[np.float32], batch: int = 256) -> NDArray[np.float64]:
    """Logits (N,) of prepared images, in batches."""
    outputs = model.predict(images, batch_size=batch, verbose="0")
    return np.asarray(outputs["logit"], np.float64).ravel()


def finding_logits(model: "keras.Model", images: NDArray[np.float32], batch: int = 256) -> NDArray[np.float64]:
    """Logits (N, outputs) of the findings in prepared images, in batches."""
    outputs = model.predict(images, batch_size=batch, verbose="0")
    return np.asarray(outputs["findings"], np.float64)


def targets_of(labels: NDArray[np.integer[Any]], task: Task, smoothing: float) -> NDArray[np.float64]:
    """What is learnt of labels (N,): (N,) for one output, (N, outputs) for several."""
    if len(task.outputs) == 1:
        return smoothed(labels, smoothing)
    places = range(len(task.findings))
    present = np.array([[at in task.present(int(label)) for at in places] for label in labels])
    if task.kind == "many-at-once":
        return smoothed(present[:, 1:].astype(np.int64), smoothing)
    return np.asarray(present * (1 - smoothing) + smoothing / len(places), np.float64)


def smoothed(labels: NDArray[np.integer[Any]], smoothing: float) -> NDArray[np.float64]:
    """Targets a little off 0 and 1, so that no label is learnt with certainty."""
    return np.asarray(labels * (1 - smoothing) + smoothing / 2, np.float64)


class Loop:
    """The state of a run: the classifier that is trained, and the network with its averaged weights that is kept.

    `pixels` are uint8 (N, size, size), `labels` (N,) balance the batches, `targets` in 0..1 are learnt: (N,), or
    (N, outputs) where the task has several.
    """

    def __init__(
        self,
        network: "keras.Model",
        preparation: Preparation,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        settings: TrainSettings,
        *,
        targets: NDArray[np.floating[Any]] | None = None,
        task: Task | None = None,
    ) -> None:
        import keras

        self.task = task or default_task()
        self.averaged, self.settings = network, settings
        self.kept: Any = network.get_layer(CLASSIFIER)
        self.model, self.segmenter = fused(self.kept), fused(network.get_layer(SEGMENTER))
        self.preparation, self.pixels, self.labels = preparation, pixels, labels
        self.targets = targets_of(labels, self.task, settings.smoothing) if targets is None else targets
        self.groups = self._grouped()
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
        fields = fields_of(self.segmenter, images)
        for _ in range(self.steps):
            rows = self._balanced()
            rate = self._rate()
            # Early averages forget the random start quickly; later ones settle at the set decay.
            decay = min(self.settings.ema_decay, (1 + self.done) / (10 + self.done))
            seed = self.random.integers(0, 2**31 - 1, 2, dtype=np.int32)
            batch = images[rows], fields[rows], self.targets[rows].astype(np.float32).reshape(len(rows), -1)
            total += float(self._step(tuple(map(tf.constant, batch)), *map(tf.constant, (seed, rate, decay))))
            self.done += 1
        return total / self.steps, rate

    def _balanced(self) -> NDArray[np.int_]:
        share = max(1, self.settings.batch // len(self.groups))
        return np.concatenate([self.random.choice(rows, share, replace=len(rows) < share) for rows in self.groups])

    def _grouped(self) -> list[NDArray[np.int_]]:
        """The images of each finding."""
        places = range(len(self.task.findings))
        present = np.array([[at in self.task.present(int(label)) for at in places] for label in self.labels])
        return [np.flatnonzero(present[:, at]) for at in places]

    def _rate(self) -> float:
        warm = min(1.0, (self.done + 1) / max(1, self.total // 20))
        return self.settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.done / self.total))


def _compile(loop: Loop) -> Any:
    import tensorflow as tf

    model, optimizer, settings = loop.model, loop.optimizer, loop.settings
    several = len(loop.task.outputs) > 1
    exclusive = loop.task.kind == "one-of-several"
    cross: Any = tf.nn.softmax_cross_entropy_with_logits if exclusive else tf.nn.sigmoid_cross_entropy_with_logits

    @tf.function(reduce_retracing=True)
    def step(batch: tuple[Any, Any, Any], seed: Any, rate: Any, decay: Any) -> Any:
        images, fields, target = batch
        inputs, hidden = _disturb(model, images, fields, seed, settings)
        # Batches are balanced: without lungs, both are as likely; of several findings, as likely as in the batch.
        guess = tf.reduce_mean(target, axis=0, keepdims=True) if several else 0.5
        target = target * (1 - hidden) + guess * hidden
        with tf.GradientTape() as tape:
            predicted = model(inputs, training=True)["findings" if several else "logit"]
            loss = tf.reduce_mean(cross(labels=target, logits=predicted))
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
