"""The model package: an immutable folder that holds all that a predictor needs.

    model.tflite      what is served
    saved_model/      the same network for TensorFlow Serving and others
    card.json         how pictures are prepared, thresholds, calibration, figures, origin, and the sha256 of every file

A package is loaded with LiteRT alone; TensorFlow is imported only where one is written.
"""

import hashlib
import json
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lungline.errors import PackageError
from lungline.images import Preparation
from lungline.training.export import export
from lungline.training.quiet import quiet

OUTPUTS = {"logit", "cam", "chest"}
MODEL, SAVED_MODEL, CARD = "model.tflite", "saved_model", "card.json"

NOT_A_CHEST = "the picture does not look like a frontal chest X-ray"

Label = Literal["Normal", "Pneumonia", "Unsure"]

_LEAST_RISE = 1.0  # log odds between strongest and weakest region below which a map is flat, and stays pale


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Thresholds(_Part):
    """Where a probability becomes a label: below `low` Normal, from `high` on Pneumonia, between them Unsure."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    operating: float = Field(ge=0, le=1, description="The one threshold of accuracy, sensitivity and specificity.")
    chosen: str = Field(description="How the thresholds were chosen, in one sentence.")


class Calibration(_Part):
    """Turns the network's logit into a probability: sigmoid(scale * logit + bias)."""

    kind: Literal["none", "temperature", "platt"] = "none"
    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0

    def probability(self, logit: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Calibrated probabilities of pneumonia, of the logits' shape."""
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp(-(self.scale * np.asarray(logit, dtype=np.float64) + self.bias)))


class ChestCheck(_Part):
    """A picture whose likeness to chest X-rays is below the threshold is Unsure, whatever its probability."""

    threshold: float = Field(ge=0, le=1)
    chosen: str = Field(description="How the threshold was chosen, in one sentence.")


class DataFacts(_Part):
    """What the network was trained on."""

    name: str
    digest: str
    synthetic: bool
    counts: dict[str, int] = Field(default_factory=dict, description="Images a split.")
    feedback: int = Field(default=0, description="How many of the labels are of readers.")


class CodeFacts(_Part):
    """What code trained the network."""

    version: str
    commit: str | None = None
    dirty: bool | None = None
    packages: dict[str, str] = Field(default_factory=dict, description="Versions of the libraries that matter.")


class Card(_Part):
    """card.json: all that is known about a model, and all that a predictor needs besides the weights."""

    form: Literal[1] = Field(default=1, description="Version of this form.")
    name: str = "pneumonia"
    version: str | None = Field(default=None, description="Set when the package is registered.")
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    preparation: Preparation
    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA")
    thresholds: Thresholds
    calibration: Calibration = Field(default_factory=Calibration)
    chest: ChestCheck | None = None
    data: DataFacts
    code: CodeFacts
    seed: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict, description="The model and train settings of the run.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Figures on the test split.")
    mlflow_run_id: str | None = None
    pipeline_run: str | None = None
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of every other file of the package.")

    @property
    def synthetic(self) -> bool:
        """Whether the network has seen only drawn phantoms, never a real X-ray."""
        return self.data.synthetic


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one picture.

    `probability` is the calibrated risk of pneumonia. `cam` (h, w) in 0..1 says where the evidence for it lies: the
    strongest region has the picture's probability, the weakest 0. `chest` in 0..1 is the likeness to a frontal chest
    X-ray, None where the model has no such check.
    `embedding` (16,) sums the picture up for drift monitoring, None where the model is older than that.
    """

    probability: float
    label: Label
    cam: NDArray[np.float32]
    chest: float | None = None
    warnings: tuple[str, ...] = ()
    embedding: NDArray[np.float32] | None = None


class Package:
    """A loaded model package; immutable, and safe to call from any number of threads."""

    def __init__(self, folder: Path, card: Card, sha256: str, model: bytes, threads: int = 1) -> None:
        """Use `Package.load`."""
        self.folder = folder
        self.card = card
        self.sha256 = sha256
        self._model = model
        self._threads = threads
        # Interpreters are not thread-safe. One for each core lets predictions run side by side; one for each of a
        # server's eight threads took 50 MB more, and they drove each other out of the caches.
        self._turns = threading.Semaphore(os.cpu_count() or 1)
        self._idle: list[Any] = []

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Package":
        """Load and verify a package; `threads` is LiteRT's own number of threads for one prediction.

        Raises PackageError when any file is missing, added or differs from the card, or when LiteRT cannot run it.
        """
        card, sha256 = read_card(folder)
        _verify(folder, card)
        package = cls(folder, card, sha256, (folder / MODEL).read_bytes(), threads)
        size = card.preparation.size
        package.predict(np.zeros((1, size, size, 1), np.float32))  # proves that it answers
        return package

    def predict(self, inputs: NDArray[np.float32]) -> list[Prediction]:
        """Judge pictures: float32 (N, size, size, 1) from `Preparation.apply`.

        A picture's result does not depend on what else is in the batch: each one runs alone.
        """
        size = self.card.preparation.size
        if inputs.ndim != 4 or inputs.shape[1:] != (size, size, 1):
            raise PackageError(
                f"The model takes pictures of shape (N, {size}, {size}, 1) and was given {inputs.shape}."
            )
        return [self._judge(self._run(picture)) for picture in inputs.astype(np.float32, copy=False)]

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Uncalibrated logits (N,) of pictures (N, size, size, 1)."""
        return np.array([float(self._run(picture)["logit"].ravel()[0]) for picture in inputs])

    def _run(self, picture: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._turns:
            try:
                runner = self._idle.pop()  # the last one used: it is still in the caches
            except IndexError:
                runner = _runner(self._model, self.card.preparation.size, self._threads)
            try:
                return runner(image=picture[np.newaxis])
            finally:
                self._idle.append(runner)

    def _judge(self, outputs: dict[str, NDArray[np.float32]]) -> Prediction:
        calibrate = self.card.calibration.probability
        probability = float(calibrate(outputs["logit"]).ravel()[0])
        cam = _evidence(self.card.calibration.scale * outputs["cam"][0], probability)
        label = label_of(probability, self.card.thresholds)
        embedding = outputs["embedding"][0] if "embedding" in outputs else None
        if self.card.chest is None:
            return Prediction(probability, label, cam, embedding=embedding)
        chest = float(Calibration().probability(outputs["chest"]).ravel()[0])
        if chest < self.card.chest.threshold:
            return Prediction(probability, "Unsure", cam, chest, (NOT_A_CHEST,), embedding)
        return Prediction(probability, label, cam, chest, embedding=embedding)


def _evidence(odds: NDArray[np.float32], probability: float) -> NDArray[np.float32]:
    """Where the evidence lies: regions' log odds (h, w) above the weakest one's, scaled to the picture's risk.

    Probabilities of regions would not do: of a sure picture nearly all are 1, which says how sure but not where.
    """
    rise = odds - odds.min()
    return (probability * rise / max(float(rise.max()), _LEAST_RISE)).astype(np.float32)


def label_of(probability: float, thresholds: Thresholds) -> Label:
    """The label of a calibrated probability."""
    if probability >= thresholds.high:
        return "Pneumonia"
    return "Normal" if probability < thresholds.low else "Unsure"


def write_package(folder: Path, *, keras_model: Any, card: Card) -> Card:
    """Write a package from a model of `training.network`; `folder` must not exist or be empty.

    The folder appears complete or not at all, with card.json written last. Returns the card with the files' digests.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and any(folder.iterdir()):
        raise PackageError(f"The folder {folder.name} already holds files; a package is written into a new one.")
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        export(keras_model, draft / MODEL, draft / SAVED_MODEL)
        card = card.model_copy(update={"files": _digests(draft)})
        _write_card(draft, card)
        draft.chmod(0o755)  # mkdtemp's 0700 would shut other users of a shared volume out
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return card


def amend_card(folder: Path, **changes: Any) -> Card:
    """Write new values into the card of a package that is not registered yet, such as figures or a version."""
    card, _ = read_card(folder)
    card = Card.model_validate(card.model_dump() | changes)
    _write_card(folder, card)
    return card


def read_card(folder: Path) -> tuple[Card, str]:
    """The card of a package and the sha256 of card.json, without looking at the other files."""
    try:
        data = (folder / CARD).read_bytes()
    except OSError as exc:
        raise PackageError(f"The package {folder.name} has no readable {CARD}.") from exc
    try:
        return Card.model_validate_json(data), hashlib.sha256(data).hexdigest()
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise PackageError(f"The {CARD} of package {folder.name} is damaged at {place}: {first['msg']}.") from exc


def _write_card(folder: Path, card: Card) -> None:
    draft = folder / f".{CARD}"
    draft.write_text(json.dumps(card.model_dump(mode="json"), indent=2) + "\n")
    draft.replace(folder / CARD)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (CARD, f".{CARD}"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _verify(folder: Path, card: Card) -> None:
    if MODEL not in card.files:
        raise PackageError(f"The card of package {folder.name} does not list {MODEL}.")
    found = _digests(folder)
    for name in sorted(card.files.keys() | found.keys()):
        if name not in found:
            raise PackageError(f"The file {name} of package {folder.name} is missing.")
        if name not in card.files:
            raise PackageError(f"The file {name} in package {folder.name} is not listed in its card.")
        if found[name] != card.files[name]:
            expected, actual = card.files[name][:12], found[name][:12]
            raise PackageError(
                f"The file {name} of package {folder.name} is damaged: expected sha256 {expected}…, found {actual}…."
            )


def _runner(model: bytes, size: int, threads: int) -> Any:
    from ai_edge_litert import interpreter  # pyright: ignore[reportMissingTypeStubs]

    make: Any = interpreter.Interpreter
    try:
        with quiet():
            runner = make(model_content=model, num_threads=threads).get_signature_runner()
            runner(image=np.zeros((1, size, size, 1), np.float32))  # plans its memory now, not at the first picture
    except (ValueError, RuntimeError) as exc:
        raise PackageError(f"LiteRT cannot load {MODEL}.") from exc
    if missing := OUTPUTS - set(runner.get_output_details()):
        raise PackageError(f"The network in {MODEL} lacks the output {min(missing)}.")
    return runner
