"""Training: fit the classifier, then its checks, calibration and thresholds."""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungline.errors import SettingsError
from lungline.evaluation.metrics import auc
from lungline.imaging.preparation import Preparation
from lungline.package.card import (
    Calibration,
    Card,
    ChestCheck,
    CodeFacts,
    DataFacts,
    FindingModel,
    PopulationCheck,
    Prior,
    Thresholds,
)
from lungline.settings import ModelSettings, Settings
from lungline.task.task import Task
from lungline.training.augment import disturbed
from lungline.training.calibration import choose_prior, choose_thresholds, fit_calibration
from lungline.training.checks import fit_checks
from lungline.training.export import round_weights
from lungline.training.finding_calibration import Outputs, fit_findings
from lungline.training.loop import Epoch, Loop, finding_logits, logits
from lungline.training.lungs import lung_model
from lungline.training.network import build
from lungline.training.ood_check import draw_lesson
from lungline.training.teachers import taught

if TYPE_CHECKING:
    import keras

    from lungline.datasets.opening import Prepared

# Augmented copies of each validation image for choosing the operating point.
FORMS = 4
__all__ = ["Epoch", "Trained", "build", "logits", "preparation_of", "train"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network with the values that its card needs."""

    model: "keras.Model"
    preparation: Preparation
    history: tuple[Epoch, ...]
    calibration: Calibration
    prior: Prior
    thresholds: Thresholds
    findings: tuple[FindingModel, ...]
    task: Task
    chest: ChestCheck
    population: PopulationCheck
    seconds: float

    def card(self, data: DataFacts, code: CodeFacts, settings: Settings) -> Card:
        """The card of this run; `amend_card` adds metrics, run ids and version later."""
        return Card(
            name=settings.model_name,
            preparation=self.preparation,
            thresholds=self.thresholds,
            calibration=self.calibration,
            prior=self.prior,
            task=self.task,
            findings=self.findings,
            chest=self.chest,
            population=self.population,
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
    task, preparation = prepared.task, preparation_of(settings.model)
    if len(task.outputs) > 1 and settings.train.recipe == "best":
        raise SettingsError(f"The recipe best is for tasks with two findings; {task.name} has {len(task.findings)}.")
    pixels, labels = prepared.of("train")
    val_pixels, val_labels = prepared.of("val")
    positive = np.asarray(val_labels > 0, np.int64)
    val_images = preparation.normalise(val_pixels)
    targets = taught(prepared, settings, on_epoch) if settings.train.recipe == "best" else None
    model = build(settings.model, settings.train.seed, task=task)
    loop = Loop(model, preparation, pixels, labels, settings.train, targets=targets, task=task)
    history: list[Epoch] = []
    with ThreadPoolExecutor(1) as beside:
        lesson = beside.submit(draw_lesson, pixels, val_pixels, settings.train.seed)
        for number in range(1, settings.train.epochs + 1):
            loss, rate = loop.epoch()
            val_auc = auc(positive, logits(loop.averaged, val_images))
            history.append(Epoch(number, settings.train.epochs, loss, val_auc, rate, time.monotonic() - started))
            if on_epoch:
                on_epoch(history[-1])
    round_weights(loop.averaged)
    chest, population = fit_checks(loop.averaged, pixels, val_pixels, preparation, lesson.result())
    network = loop.averaged
    val_logits = logits(network, val_images)
    calibration = fit_calibration(val_logits, positive)
    prior = choose_prior(positive, settings.train)
    forms = disturbed(val_pixels, preparation, copies=FORMS, strength=1.0, seed=settings.train.seed)
    thresholds = choose_thresholds(
        calibration.probability(val_logits),
        positive,
        settings.train,
        calibration.probability(logits(network, forms)).reshape(FORMS, -1),
        prior=prior,
        name=task.positives[0].label.lower() if task.kind == "binary" else "positive",
    )
    findings = ()
    if len(task.positives) > 1:
        seen, copied = (
            Outputs(finding_logits(network, images), calibration.probability(logits(network, images), prior.shift))
            for images in (val_images, forms)
        )
        findings = fit_findings(task, val_labels, settings.train, seen, copied)
    seconds = time.monotonic() - started
    fitted = calibration, prior, thresholds, findings, task, chest, population
    return Trained(network, preparation, tuple(history), *fitted, seconds)
