"""The best recipe: larger networks that did not see an image say what they think of it; the small network learns that.

A label says the same of a hardly visible finding and of a white lung. Networks that were trained on other patients
tell the two apart; a small network that learns from both label and answer ranks better, at the same cost to serve.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.evaluation.metrics import auc
from lungline.settings import Settings
from lungline.training.augment import disturbed
from lungline.training.loop import Epoch, Loop, logits, smoothed
from lungline.training.network import STAGES, build

if TYPE_CHECKING:
    from lungline.datasets.opening import Prepared

# A teacher has one stage more and sees the lungs at the full size of the input.
TEACHER_STAGES, TEACHER_SHARE = (*STAGES, (3, 5, 1, 6, 112)), 1.0
# Augmented forms of each image that a teacher judges, besides the image itself.
FORMS = 3
# How much of a target is the teachers' answer; the rest is the label.
TRUST = 0.5


@dataclass(frozen=True, slots=True)
class Lesson(Epoch):
    """An epoch of one of the larger networks, counted from 1; `val_auc` is on the images that it does not see."""

    teacher: int


def taught(
    prepared: "Prepared", settings: Settings, on_epoch: Callable[[Lesson], None] | None = None
) -> NDArray[np.float64]:
    """Targets (N,) in 0..1 of the train split, half the label and half the answer of teachers.

    Patients are divided into `train.teachers` groups; each group is judged by a network that was trained on the others.
    """
    started = time.monotonic()
    pixels, labels = prepared.of("train")
    preparation, train = prepared.preparation, settings.train
    group = _groups([row.patient or row.name for row in prepared.rows("train")], train.teachers, train.seed)
    answers = np.empty(len(labels))
    for number in range(train.teachers):
        held = group == number
        seed = train.seed + 1 + number
        model = build(settings.model, seed, stages=TEACHER_STAGES, share=TEACHER_SHARE)
        options = train.model_copy(update={"seed": seed})
        loop = Loop(model, preparation, pixels[~held], labels[~held], options)
        plain = preparation.normalise(pixels[held])
        for epoch in range(1, train.epochs + 1):
            loss, rate = loop.epoch()
            if on_epoch:
                ranked = auc(labels[held], logits(model, plain))
                seconds = time.monotonic() - started
                on_epoch(Lesson(epoch, train.epochs, loss, ranked, rate, seconds, teacher=number + 1))
        forms = disturbed(pixels[held], preparation, copies=FORMS, strength=1.0, seed=seed)
        looks = [logits(model, plain), *logits(model, forms).reshape(FORMS, -1)]
        answers[held] = np.mean(1 / (1 + np.exp(-np.stack(looks))), axis=0)
    return TRUST * answers + (1 - TRUST) * smoothed(labels, train.smoothing)


def _groups(patients: list[Any], count: int, seed: int) -> NDArray[np.int_]:
    """A group for each image; all images of a patient are in the same one."""
    names, place = np.unique(np.array(patients), return_inverse=True)
    return np.random.default_rng(seed).permutation(len(names))[place] % count
