"""A network whose risks are calibrated by construction, and images of sites with any share of pneumonia.

The network reads the brightness of one region; images are drawn with the brightness of a logit, so the true risk of
each is known.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lungline.evaluation.metrics import Case, summarise
from lungline.evaluation.scoring import Scores, score
from lungline.monitoring.reference import add_reference, measure
from lungline.package.card import Calibration, Prior, Thresholds, amend_card
from lungline.package.package import Package
from tests.support.reading_network import CENTRE, SIZE, reader_of

CALIBRATED = 0.7
APART = 4.0
"""Distance of the two classes in deviations: an AUC of 0.998."""

THRESHOLDS = Thresholds(low=0.4, high=0.9, operating=0.7, chosen="By hand.")


def film(logit: float, noise: int, brighter: int = 0) -> bytes:
    """An image that the network gives a logit; `brighter` moves everything else."""
    random = np.random.default_rng(noise)
    pixels = random.integers(90, 130, (SIZE, SIZE)) + brighter
    pixels[CENTRE] = 127.5 + logit * 255 / 40
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def patients(count: int, share: float, seed: int, apart: float = APART, brighter: int = 0) -> list[Case]:
    """Images of a site where that share has pneumonia."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) < round(share * count)).astype(int)
    logits = apart * random.normal(np.where(labels == 1, apart, -apart) / 2, 1.0)
    rows = enumerate(zip(labels, logits, strict=True))
    return [
        Case(int(label), film(float(logit), seed * 10_000 + at, brighter), f"{at}.png") for at, (label, logit) in rows
    ]


def folder_of(folder: Path, cases: list[Case], *, labelled: bool) -> Path:
    """The images as files: in class folders, or all in one."""
    for at, case in enumerate(cases):
        place = folder / (("NORMAL", "PNEUMONIA")[case.label] if labelled else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"image{at:04d}.png").write_bytes(case.data)
    return folder


def write_calibrated_package(folder: Path, *, prior: Prior | None = None, version: str | None = "1") -> Scores:
    """Write a package whose risks are right where the share is 0.7; returns its answers for a test split."""
    bias = float(np.log(CALIBRATED / (1 - CALIBRATED)))
    reader_of(CENTRE, folder)
    amend_card(
        folder,
        calibration=Calibration(kind="platt", scale=1.0, bias=bias),
        prior=prior or Prior(calibrated=CALIBRATED, share=CALIBRATED, chosen="By hand."),
        thresholds=THRESHOLDS,
        version=version,
    )
    package = Package.load(folder)
    add_reference(folder, measure(package, ((None, case.data) for case in patients(300, CALIBRATED, seed=1)), "val"))
    scores = tested(package)
    amend_card(folder, metrics=scores.evaluation.metrics(), confusion=scores.evaluation.confusion)
    return scores


def tested(package: Package) -> Scores:
    """A package's answers for a test split of 300 images."""
    scored = tuple(score(package, patients(300, CALIBRATED, seed=2)))
    return Scores(summarise(scored, package.card.thresholds, prior=package.card.prior), scored)
