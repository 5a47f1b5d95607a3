"""The model package: an immutable folder with everything that a predictor needs.

    model.tflite      the network that is served
    saved_model/      the same network for TensorFlow Serving and others
    sbom.cdx.json     the bill of materials: files, data, code and libraries, in CycloneDX's form
    card.json         preparation, thresholds, calibration, metrics, origin, and the sha256 of every file
    model.sig         the signature of all of these, written when the package is registered

The sha256 of card.json is the digest over everything: it names a package in history, results and metrics.

Loading a package needs LiteRT only, no TensorFlow.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lungline.errors import PackageError
from lungline.imaging.lungs import problem_of
from lungline.package.answers import UNSURE, FindingAnswer, answers_of, image_label
from lungline.package.bill_of_materials import require_fit
from lungline.package.card import CARD, MODEL, Calibration, Card, read_card
from lungline.package.signature import digests_of

# Two threads that swap the descriptors at once could leave the process without a stderr.
_SWAPPING = threading.Lock()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Discard output of C++ libraries, which write to the file descriptors directly, past sys.stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    with _SWAPPING, open(os.devnull, "wb") as sink:  # noqa: PTH123 - a descriptor is needed, not a path
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in saved:
                os.dup2(sink.fileno(), fd)
            yield
        finally:
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)


OUTPUTS = {"logit", "cam", "chest"}

NOT_A_CHEST = "the image does not look like a frontal chest X-ray"
NO_LUNGS = "the lungs cannot be outlined"
UNLIKE_TRAINING = "the image is unlike the X-rays that the model learnt from"

Doubt = Literal["not-a-chest", "no-lungs", "unlike-training", "not-frontal"]
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)
"""Kinds of reasons for which an image is Unsure whatever its risk; each has a sentence among the warnings."""

_LEAST_RISE = 1.0  # log odds between strongest and weakest region below which a map is flat, and stays pale


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's prediction for one image.

    `probability` is the calibrated risk, at the card's prior. `cam` (h, w) in 0..1 locates the evidence
    for it: the strongest region has the image's probability, the weakest 0. `chest` in 0..1 is the likeness to a
    frontal chest X-ray, None for a model without that check. `embedding` (16,) summarises the image for drift
    monitoring, None for older models. `lungs` (h, w) in 0..1 is the lung field over the network's input, None for
    models without a lung segmenter. `doubts` are the kinds of reasons for which the label is Unsure whatever the
    probability; `warnings` say them in words. `distance` is how far the image lies from the training images, about
    1 for those; None for a model without that check. `findings` are the answers about each of several findings.
    """

    probability: float
    label: str
    cam: NDArray[np.float32]
    chest: float | None = None
    warnings: tuple[str, ...] = ()
    embedding: NDArray[np.float32] | None = None
    lungs: NDArray[np.float32] | None = None
    doubts: tuple[Doubt, ...] = ()
    distance: float | None = None
    findings: tuple[FindingAnswer, ...] = ()


class Package:
    """A loaded model package; immutable, and safe to call from any number of threads."""

    def __init__(self, folder: Path, card: Card, sha256: str, model: bytes, threads: int = 1) -> None:
        """Use `Package.load`."""
        self.folder = folder
        self.card = card
        self.sha256 = sha256
        self._model = model
        self._threads = threads
        # Interpreters are not thread-safe. One per core allows parallel predictions; one for each of a server's eight
        # threads took 50 MB more and thrashed the CPU caches.
        self._turns = threading.Semaphore(os.cpu_count() or 1)
        self._idle: list[Any] = []

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Package":
        """Load and verify a package; `threads` is LiteRT's own number of threads for one prediction.

        Raises PackageError when any file is missing, added or differs from the card, or when LiteRT cannot run it.
        """
        card, sha256 = read_card(folder)
        _verify(folder, card)
        require_fit(folder, card)
        package = cls(folder, card, sha256, (folder / MODEL).read_bytes(), threads)
        size = card.preparation.size
        package.predict(np.zeros((1, size, size, 1), np.float32))  # raises if LiteRT cannot run it
        return package

    def predict(self, inputs: NDArray[np.float32]) -> list[Prediction]:
        """Predict images: float32 (N, size, size, 1) from `Preparation.apply`.

        Each image runs alone, so its prediction does not depend on the rest of the batch. Raises PackageError for
        another shape.
        """
        size = self.card.preparation.size
        if inputs.ndim != 4 or inputs.shape[1:] != (size, size, 1):
            raise PackageError(f"The model takes images of shape (N, {size}, {size}, 1); got {inputs.shape}.")
        return [self._prediction(self._run(image)) for image in inputs.astype(np.float32, copy=False)]

    def finding_logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Uncalibrated logits (N, outputs) of the findings in images (N, size, size, 1), of a task with several."""
        return np.array([self._run(image)["findings"].ravel() for image in inputs], np.float64)

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Uncalibrated logits (N,) of images (N, size, size, 1)."""
        return np.array([float(self._run(image)["logit"].ravel()[0]) for image in inputs])

    def _run(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._turns:
            try:
                runner = self._idle.pop()  # last in, first out: still in the CPU cache
            except IndexError:
                runner = _runner(self._model, self.card.preparation.size, self._threads)
            try:
                return runner(image=image[np.newaxis])
            finally:
                self._idle.append(runner)

    def _prediction(self, outputs: dict[str, NDArray[np.float32]]) -> Prediction:
        probability = float(self.card.probability(outputs["logit"]).ravel()[0])
        cam = _evidence(self.card.calibration.scale * outputs["cam"][0], probability)
        embedding = outputs["embedding"][0] if "embedding" in outputs else None
        lungs = outputs["lungs"][0] if "lungs" in outputs else None
        chest = None
        doubts: dict[Doubt, str] = {}
        if self.card.chest is not None:
            chest = float(Calibration().probability(outputs["chest"]).ravel()[0])
            if chest < self.card.chest.threshold:
                doubts["not-a-chest"] = NOT_A_CHEST
        if self.card.lungs is not None and lungs is not None and (problem := problem_of(lungs)):
            doubts["no-lungs"] = f"{NO_LUNGS}: {problem}"
        distance = None
        if self.card.population is not None:
            distance = float(outputs["distance"].ravel()[0])
            if distance > self.card.population.threshold:
                doubts["unlike-training"] = UNLIKE_TRAINING
        findings = ()
        if self.card.findings:
            logits = outputs.get("findings")
            if logits is None or logits.size != len(self.card.task.outputs):
                raise PackageError(f"The network in {MODEL} has no output for each finding of {self.card.task.name}.")
            findings = answers_of(self.card, probability, logits)
        return Prediction(
            probability,
            UNSURE if doubts else image_label(self.card, probability, findings),
            cam,
            chest,
            tuple(doubts.values()),
            embedding,
            lungs,
            tuple(doubts),
            distance,
            findings,
        )


def _evidence(odds: NDArray[np.float32], probability: float) -> NDArray[np.float32]:
    """Heatmap (h, w): log odds of each region above the weakest region's, scaled to the image's risk.

    Regions' probabilities would not do: in an image with high risk nearly all are 1, which locates nothing.
    """
    rise = odds - odds.min()
    return (probability * rise / max(float(rise.max()), _LEAST_RISE)).astype(np.float32)


def listed_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file that a card lists: all but the card itself and the signature, which covers the card."""
    unlisted = (CARD, f".{CARD}")
    return {name: digest for name, digest in digests_of(folder).items() if name not in unlisted}


def _verify(folder: Path, card: Card) -> None:
    if MODEL not in card.files:
        raise PackageError(f"The card of package {folder.name} does not list {MODEL}.")
    digests = listed_digests(folder)
    for name in sorted(card.files.keys() | digests.keys()):
        if name not in digests:
            raise PackageError(f"The file {name} of package {folder.name} is missing.")
        if name not in card.files:
            raise PackageError(f"The file {name} in package {folder.name} is not listed in its card.")
        if digests[name] != card.files[name]:
            expected, actual = card.files[name][:12], digests[name][:12]
            raise PackageError(
                f"The file {name} of package {folder.name} is damaged: expected sha256 {expected}…, found {actual}…."
            )


def _runner(model: bytes, size: int, threads: int) -> Any:
    from ai_edge_litert import interpreter  # pyright: ignore[reportMissingTypeStubs]

    make: Any = interpreter.Interpreter
    try:
        with quiet():
            runner = make(model_content=model, num_threads=threads).get_signature_runner()
            runner(image=np.zeros((1, size, size, 1), np.float32))  # allocate memory now, not at the first image
    except (ValueError, RuntimeError) as exc:
        raise PackageError(f"LiteRT cannot load {MODEL}.") from exc
    if missing := OUTPUTS - set(runner.get_output_details()):
        raise PackageError(f"The network in {MODEL} lacks the output {min(missing)}.")
    return runner
