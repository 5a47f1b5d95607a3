"""card.json: the description of a model, and everything that a predictor needs besides the weights."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lungline.errors import PackageError
from lungline.imaging.preparation import Preparation
from lungline.task.reading import default_task
from lungline.task.task import Task

MODEL, SAVED_MODEL, CARD = "model.tflite", "saved_model", "card.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Thresholds(_Part):
    """Where a probability becomes an answer: below `low` absent, from `high` on present, between them Unsure."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    operating: float = Field(ge=0, le=1, description="The one threshold of accuracy, sensitivity and specificity.")
    chosen: str = Field(description="How the thresholds were chosen, in one sentence.")


class Calibration(_Part):
    """Turns the network's logit into a probability: sigmoid(scale * logit + bias)."""

    kind: Literal["none", "temperature", "platt", "softmax"] = "none"
    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0
    uncertainty: tuple[float, float, float] | None = Field(
        default=None,
        description="Variance of the scale, covariance, variance of the bias at a fixed share of positives.",
    )

    def probability(self, logit: NDArray[np.floating[Any]], shift: float = 0.0) -> NDArray[np.float64]:
        """Calibrated probabilities, of the logits' shape; `shift` is added in log odds."""
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp(-(self.scale * np.asarray(logit, dtype=np.float64) + self.bias + shift)))


class Prior(_Part):
    """The share of positives that the risks are for: calibrated risks are shifted there in log odds."""

    calibrated: float = Field(gt=0, lt=1, description="Share of positives in the images of the calibration.")
    share: float = Field(gt=0, lt=1, description="Share of positives where the model serves.")
    chosen: str = Field(description="Where the share comes from, in one sentence.")

    @property
    def shift(self) -> float:
        """What is added to a calibrated risk, in log odds."""
        return log_odds(self.share) - log_odds(self.calibrated)

    @property
    def target(self) -> float | None:
        """The share that images must be weighted to where risks are compared with frequencies; None without a shift."""
        return self.share if self.shift else None


class FindingModel(_Part):
    """How the network's output for one of several findings becomes a probability and an answer."""

    name: str
    calibration: Calibration
    prior: Prior | None = None
    thresholds: Thresholds

    @property
    def shift(self) -> float:
        """What the prior adds to a calibrated probability, in log odds."""
        return self.prior.shift if self.prior else 0.0


class SiteFacts(_Part):
    """The site that the prior and the thresholds of a version were chosen for."""

    name: str
    parent: str = Field(description="The version whose network this one has.")
    images: int = Field(description="Images of the site with a prediction.")
    labelled: bool


def log_odds(probability: float) -> float:
    """Log odds of a probability, which is kept 1e-9 from 0 and 1."""
    clipped = min(max(float(probability), 1e-9), 1 - 1e-9)
    return float(np.log(clipped / (1 - clipped)))


def shifted(probability: float, shift: float) -> float:
    """A probability, moved in log odds; 0 and 1 stay."""
    if not 0 < probability < 1:
        return float(probability)
    return float(1 / (1 + (1 - probability) / probability * np.exp(-shift)))


class ChestCheck(_Part):
    """An image whose likeness to chest X-rays is below the threshold is Unsure, whatever its probability."""

    threshold: float = Field(ge=0, le=1)
    chosen: str = Field(description="How the threshold was chosen, in one sentence.")


class PopulationCheck(_Part):
    """An image that lies farther from the training images than the threshold is Unsure, whatever its probability."""

    threshold: float = Field(gt=0)
    chosen: str = Field(description="How the threshold was chosen, in one sentence.")


class LungModel(_Part):
    """The lung segmenter inside the network; an image whose lung field is implausible is Unsure."""

    source: str = Field(description="What the segmenter was trained on, in one sentence.")
    sha256: str = Field(description="Digest of its weights.")


class DataFacts(_Part):
    """The data that the network was trained on."""

    name: str
    digest: str
    synthetic: bool
    counts: dict[str, int] = Field(default_factory=dict, description="Images per split.")
    feedback: int = Field(default=0, description="Number of labels that readers gave.")


class CodeFacts(_Part):
    """The code that trained the network."""

    version: str
    commit: str | None = None
    dirty: bool | None = None
    packages: dict[str, str] = Field(default_factory=dict, description="Versions of the main libraries.")


class GateFacts(_Part):
    """How a version came past the gate."""

    passed: bool
    sentence: str = Field(default="", description="The gate's verdict.")
    lowered: tuple[str, ...] = Field(
        default=(), description="Limits that were laxer than the defaults, such as `auc 0 instead of 0.95`."
    )


class Card(_Part):
    """card.json: the description of a model, and everything that a predictor needs besides the weights."""

    schema_version: Literal[2] = 2
    name: str = Field(default_factory=lambda: default_task().name)
    version: str | None = Field(default=None, description="Set when the package is registered.")
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    preparation: Preparation
    task: Task = Field(default_factory=default_task, description="What the model looks for.")
    classes: tuple[str, ...] = Field(
        default_factory=lambda made: made["task"].names if "task" in made else (), description="Names of the findings."
    )
    thresholds: Thresholds
    calibration: Calibration = Field(default_factory=Calibration)
    prior: Prior | None = Field(
        default=None, description="None for packages of earlier releases: the risks are for the calibration's images."
    )
    findings: tuple[FindingModel, ...] = Field(
        default=(), description="The positive findings, where they are several; of one, the risk says it all."
    )
    chest: ChestCheck | None = None
    population: PopulationCheck | None = Field(
        default=None, description="How far from the training images an image may lie; packages of before have no check."
    )
    lungs: LungModel | None = Field(
        default=None, description="None for packages of earlier releases, which have no lung model."
    )
    data: DataFacts
    code: CodeFacts
    seed: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict, description="The model and train settings of the run.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Metrics on the test split.")
    confusion: dict[str, int] = Field(
        default_factory=dict, description="tp, fn, tn, fp on the test split at the operating point."
    )
    site: SiteFacts | None = Field(default=None, description="Set for a version that was fitted to one site.")
    gate: GateFacts | None = Field(
        default=None, description="None for packages of earlier releases and for those that went round the gate."
    )
    mlflow_run_id: str | None = None
    pipeline_run: str | None = None
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of every other file of the package.")

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, document: Any) -> Any:
        """Read cards of schema 1, which had one task and no name for it."""
        fields = dict(cast("dict[str, Any]", document)) if isinstance(document, dict) else {}
        if fields.pop("form", fields.get("schema_version")) != 1:
            return cast("Any", document)
        return fields | {"schema_version": 2}

    @model_validator(mode="after")
    def _check_findings(self) -> Self:
        names = tuple(model.name for model in self.findings)
        wanted = self.task.names[1:] if len(self.task.positives) > 1 else ()
        if names != wanted:
            raise ValueError(
                f"expected findings {', '.join(wanted) or 'none'} for the task {self.task.name}; "
                f"found {', '.join(names) or 'none'}"
            )
        return self

    @property
    def synthetic(self) -> bool:
        """Whether the network was trained on drawn phantoms only."""
        return self.data.synthetic

    @property
    def shift(self) -> float:
        """What the prior adds to a calibrated risk, in log odds."""
        return self.prior.shift if self.prior else 0.0

    def probability(self, logit: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Risks, of the logits' shape: calibrated, then shifted to the prior."""
        return self.calibration.probability(logit, self.shift)


def amend_card(folder: Path, **changes: Any) -> Card:
    """Change values in the card of a package that is not registered yet, such as metrics or the version."""
    card, _ = read_card(folder)
    card = Card.model_validate(card.model_dump() | changes)
    _write_card(folder, card)
    return card


def read_card(folder: Path) -> tuple[Card, str]:
    """The card of a package and the sha256 of card.json, without checking the other files.

    Raises PackageError when it is missing or damaged.
    """
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
