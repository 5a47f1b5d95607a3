"""The result record: the outcome of an upload by a model version, as JSON in the results bucket.

    results/ab/abcdef.../3.json        the record of upload abcdef... by model version 3

There is one record per upload and model version, and its key follows from both. `lungline.results.record_store` saves
and finds records. They contain the object's key; the bucket is protected, logs are not.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lungline import bounds
from lungline.imaging.heatmap import EvidenceMap
from lungline.imaging.outline import MOST_NUMBERS, MOST_OUTLINES
from lungline.imaging.statistics import ImageStatistics
from lungline.package.card import Card
from lungline.task.reading import DEFAULT
from lungline.task.task import MOST_FINDINGS
from lungline.task.terms import TaskTerms, default_terms, packaged_terms

PREFIX = "results/"
# Marks of records whose image is still owed to the research bucket (lungline.deidentification.research).
OWED = "owed/"

Thousandths = Annotated[int, Field(ge=0, le=1000)]
Outcome = Literal["judged", "refused", "superseded", "gone"]
NOT_MEANT, NO_TASK, OWN_RESULT = "not-meant", "no-task", "own-result"
SET_ASIDE = frozenset((NOT_MEANT, NO_TASK, OWN_RESULT))
"""Reasons of images that are kept and set aside: nothing is wrong with them, so nobody needs to replay their events."""
UNSURE, REFUSED = "Unsure", "Refused"
ResultLabel = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 -]{0,31}$")]
"""The label of a finding, as its task names it; Unsure or Refused."""

# A record is replaced only by one that knows more: an upload that was gone, or that an older decoder refused, may
# come back (sent again, replayed after a fix) and must then be judged. What has been judged stays.
_RANK: dict[Outcome | str, int] = {"gone": 0, "superseded": 0, "refused": 1, "judged": 2}

# What schema 1 called the fields of schema 2.
_RENAMED = {"form": "schema_version", "picture": "image", "observed": "image_statistics"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelFacts(_Part):
    """The model that answered."""

    name: str
    version: str
    run_id: str | None
    sha256: str
    synthetic: bool


class OperatingPoint(_Part):
    """Below `low` absent, from `high` on present, between them Unsure; `operating` is the one without Unsure."""

    low: float
    high: float
    operating: float


class FindingFacts(_Part):
    """The model's answer about one of several findings."""

    name: str = Field(max_length=32)
    label: ResultLabel
    probability: float = Field(ge=0, le=1)
    presence: Literal["present", "absent", "unsure"]


class UploadFacts(_Part):
    """The upload, as its event describes it."""

    identity: str
    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    sequencer: str | None

    @property
    def state(self) -> str | None:
        """What tells this object from others at its key; each event about it holds that."""
        return self.version_id or self.etag or self.sequencer


class ReadFacts(_Part):
    """The object that was actually read."""

    etag: str
    version_id: str | None
    size: int
    modified: datetime


class ImageFacts(_Part):
    """The image file; width and height in pixels, upright."""

    format: str
    width: int
    height: int


class LungFacts(_Part):
    """Where the lungs lie in the image, and the share of the heatmap inside them.

    An outline is a closed polygon: x, y, x, y, ... in thousandths of the upright image's width and height. In the
    record and not beside the heatmap: it is a few hundred bytes, and is there whenever the record is.
    """

    outlines: tuple[Annotated[tuple[Thousandths, ...], Field(max_length=MOST_NUMBERS)], ...] = Field(
        default=(), max_length=MOST_OUTLINES
    )
    heat_inside: float | None = Field(default=None, ge=0, le=1)


class Times(_Part):
    """When the object was stored, when its event arrived here, and when the record was written."""

    uploaded: Annotated[datetime | None, AfterValidator(bounds.recorded)]
    """None also for a time that cannot be."""
    received: datetime
    done: datetime


class ResultRecord(_Part):
    """The outcome of one upload with one model version.

    `outcome` says how it ended: `judged` has a label and a probability; `refused` the label Refused with a reason code
    and a sentence; `superseded` (the object was overwritten before it was read; `superseded_by` is the identity of what
    is there now) and `gone` (it was deleted) have no label at all. `timings` are milliseconds by stage.
    `evidence` is the map of the heatmap, which is drawn when somebody looks; records of earlier versions have the key
    of a drawn one as `heatmap` instead. `image_statistics` are what drift monitoring compares; only judged images have
    them. `lungs` is None for models
    without a lung segmenter. `patient` is the key in the patients bucket that says whom a DICOM upload is of, and
    nothing of it is in here. `doubts` are the kinds of reasons for which a result is Unsure whatever its probability;
    `warnings` say them in words. `task` is the name of the model's task, `probability` the risk of anything but its
    negative finding; `findings` are the answers about each positive finding, where the task has several; `terms` are
    what people read, press and send about them, of any task but the default one. `event` is where the event of the
    upload lay in Kafka, as topic/partition/offset: topics forget it.
    """

    schema_version: Literal[3] = 3
    id: str
    task: str = Field(default=DEFAULT, max_length=40)
    outcome: Outcome
    label: ResultLabel | None = None
    probability: float | None = None
    thresholds: OperatingPoint
    reason: str | None = None
    message: str | None = None
    superseded_by: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: ModelFacts
    upload: UploadFacts
    read: ReadFacts | None = None
    image: ImageFacts | None = None
    heatmap: str | None = None
    evidence: EvidenceMap | None = None
    patient: str | None = None
    lungs: LungFacts | None = None
    doubts: tuple[str, ...] = ()
    findings: tuple[FindingFacts, ...] = Field(default=(), max_length=MOST_FINDINGS)
    terms: TaskTerms | None = None
    event: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,249}/[0-9]{1,10}/[0-9]{1,20}$")
    times: Times
    timings: dict[str, float] = {}
    image_statistics: ImageStatistics | None = None

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, document: Any) -> Any:
        """Read records of schema 1, which had other names for some fields, and of 2, which named no task."""
        fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if fields.get("form") != 1 and fields.get("schema_version") != 2:
            return cast("Any", document)
        if "form" in fields:
            fields = {_RENAMED.get(name, name): value for name, value in fields.items()}
        return fields | {"schema_version": 3}

    @property
    def key(self) -> str:
        """The record's key in the results bucket."""
        return record_key(self.upload.identity, self.model.version)

    @property
    def has_heatmap(self) -> bool:
        """Whether a heatmap is stored, or can be drawn."""
        return self.heatmap is not None or self.evidence is not None

    @model_validator(mode="after")
    def _check_terms(self) -> "ResultRecord":
        """A record says itself what its findings are: the package may be gone when somebody reads it."""
        if self.terms is None:
            if self.task != DEFAULT and packaged_terms(self.task) is None:
                raise ValueError("expected the terms of a task that does not come with the package")
            return self
        if self.terms.name != self.task:
            raise ValueError("expected the terms of the record's own task")
        if self.label not in (None, UNSURE, REFUSED, *self.terms.labels):
            raise ValueError("expected a label of the record's task")
        if not {each.name for each in self.findings} <= {finding.name for finding in self.terms.positives}:
            raise ValueError("expected findings of the record's task")
        return self

    @property
    def task_terms(self) -> TaskTerms:
        """What people read, press and send about the findings."""
        return self.terms or packaged_terms(self.task) or default_terms()

    @property
    def present(self) -> tuple[str, ...]:
        """The labels of the positive findings that are there, that of the record first."""
        terms = self.task_terms
        finding = terms.labelled(self.label)
        if finding is None or finding.negative:
            return ()
        others = [each.label for each in self.findings if each.presence == "present" and each.label != self.label]
        return (finding.label, *others) if terms.is_many else (finding.label,)

    @property
    def is_set_aside(self) -> bool:
        """Whether nothing is wrong with the image, and it is only not for the model to judge."""
        return self.reason in SET_ASIDE


def knows_more(outcome: Outcome | str, stored: Outcome | str) -> bool:
    """Whether a record with `outcome` replaces the one with `stored` of the same upload and version."""
    return _RANK[outcome] > _RANK[stored]


def version_of(card: Card, sha256: str) -> str:
    """The version of a package: the registered one, or the beginning of the package's digest."""
    return card.version or sha256[:12]


def record_version(model: str, task: str, version: str) -> str:
    """The version that records name: `3`, or `pneumonia-kind.3` of another task than the default.

    Versions are counted for each model, so several that serve side by side need their names to be told apart.
    """
    return version if task == DEFAULT else f"{model}.{version}"


def place_of(version: str, model: str) -> tuple[str, str]:
    """Model and version in the registry of a version that records name; `model` is that of the default task."""
    name, _, number = version.rpartition(".")
    return (name, number) if name else (model, version)


def record_key(identity: str, version: str) -> str:
    """The key of an upload's record in the results bucket."""
    return f"{PREFIX}{identity[:2]}/{identity}/{version}.json"
