"""The checks of a trained network: is it a chest, is it like the training images; and the embedding for monitoring.

All are fitted on what the network makes of the training images, in one pass. What the chest check learns from besides
them is drawn while the network still trains: it does not depend on it.
"""

# pyright: basic
# Keras ships no usable types: strictness here would only collect casts.
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lungline.imaging.preparation import Preparation
from lungline.package.card import ChestCheck, PopulationCheck
from lungline.training.embedding import embedding_rows, fit_embedding
from lungline.training.network import CHEST_MAPS, FEATURES, SMALL
from lungline.training.ood_check import Lesson, fit_chest_check
from lungline.training.population import SUMMARY, fit_population_check
from lungline.training.views import views_of

if TYPE_CHECKING:
    import keras


def fit_checks(
    model: "keras.Model",
    train: NDArray[np.uint8],
    val: NDArray[np.uint8],
    preparation: Preparation,
    lesson: Lesson,
) -> tuple[ChestCheck, PopulationCheck]:
    """Fit the checks and the embedding of a trained network in place; images are uint8 (N, size, size)."""
    wanted = {
        CHEST_MAPS: lesson.rows,
        SMALL: lesson.rows,
        SUMMARY: np.arange(len(train)),
        FEATURES: embedding_rows(len(train), lesson.seed),
    }
    seen = views_of(model, train, preparation, wanted)
    chest = fit_chest_check(model, lesson, (seen[CHEST_MAPS], seen[SMALL]), val, preparation)
    population = fit_population_check(model, seen[SUMMARY], val, preparation)
    fit_embedding(model, seen[FEATURES])
    return chest, population
