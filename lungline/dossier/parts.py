"""What a dossier is made of: facts about one upload, each from the place that holds it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lungline.package.card import Card
from lungline.registry.history import PromotionEntry
from lungline.registry.runs import RunFacts
from lungline.results.patients import PatientRecord
from lungline.results.purposes import Purpose
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord

EventKind = Literal["upload", "result", "dead letter", "second opinion", "back-fill"]


class Part(BaseModel):
    """A part of a dossier."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Missing(Part):
    """A part that is not in the dossier, and why."""

    part: str
    reason: str
    left_out: bool = Field(default=False, description="Whether it was left out on purpose.")

    @property
    def sentence(self) -> str:
        """What is not there, and why."""
        return f"{'Left out' if self.left_out else 'Not found'}: {self.part} ({self.reason})."


class ObjectFacts(Part):
    """The uploaded object as the store has it now; `sha256` is that of its content, `size` in bytes."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    size: int
    modified: datetime
    sha256: str
    as_judged: bool = Field(description="Whether it is the object that the latest result was made from.")


class EventSeen(Part):
    """An event about the upload in a topic."""

    topic: str
    partition: int
    offset: int
    at: datetime | None
    kind: EventKind
    remark: str = ""


class ModelSheet(Part):
    """The model behind a result: its card as it is stored, and the promotion that was in force."""

    name: str
    version: str
    sha256: str = Field(description="Digest of the package, as the result record has it.")
    stored_sha256: str | None = Field(description="Digest of the card in the models bucket now.")
    card: Card | None
    run: RunFacts | None
    in_force: PromotionEntry | None = Field(description="The promotion in force when the result was written.")


class HistoryFacts(Part):
    """The promotion history that the dossier refers to."""

    entries: int
    head: str = Field(description="sha256 of the last entry.")
    sentence: str = Field(description="Whether chain and signatures hold.")


class HoldFacts(Part):
    """A legal hold that forbids to erase the upload: on it, or on all of its patient."""

    id: str
    on: Literal["upload", "patient"]
    by: str
    reason: str
    at: datetime


class OpinionFacts(Part):
    """A second opinion: what another version says, and what for; it is no answer."""

    purpose: Purpose
    record: ResultRecord


class NoticeFacts(Part):
    """A notice about the upload; `target` counts the addresses of a step, which are not named."""

    rule: str
    step: int
    target: int
    state: str
    attempts: int
    created: datetime
    sent: datetime | None
    error: str | None
    acknowledged: datetime | None
    acknowledged_by: str | None


class DeliveryFacts(Part):
    """A delivery of a result to another system; `reading` is the verdict that it has had."""

    record: str
    destination: str
    state: str
    attempts: int
    created: datetime
    sent: datetime | None
    error: str | None
    reading: str | None


class AuditFacts(Part):
    """An entry of the worklist's audit log about the upload, with its place in the chain of hashes."""

    number: int
    at: datetime
    who: str
    role: str
    act: str
    detail: str
    hash: str | None


class WorklistPart(Part):
    """What the worklist's database holds of an upload."""

    record: str | None = Field(description="The id of the result that the worklist shows.")
    capture_error: str | None = None
    readings: tuple[ReadingRecord, ...] = ()
    notices: tuple[NoticeFacts, ...] = ()
    deliveries: tuple[DeliveryFacts, ...] = ()
    audit: tuple[AuditFacts, ...] = ()


class PictureFacts(Part):
    """A picture on the page: what it shows, and the sha256 of its file."""

    title: str
    media_type: str
    sha256: str


class Dossier(Part):
    """Everything that happened to one upload, as far as it could be reached; `missing` names the rest.

    `results` are its records of all model versions, the latest first; `models` those that they and the second opinions
    name.
    """

    schema_version: Literal[1] = 1
    kind: Literal["dossier"] = "dossier"
    subject: str = Field(description="The identity of the upload.")
    made: datetime
    by: str
    names_patient: bool
    object: ObjectFacts | None = None
    patient: PatientRecord | None = None
    results: tuple[ResultRecord, ...] = ()
    opinions: tuple[OpinionFacts, ...] = ()
    models: tuple[ModelSheet, ...] = ()
    history: HistoryFacts | None = None
    events: tuple[EventSeen, ...] = ()
    readings: tuple[ReadingRecord, ...] = ()
    holds: tuple[HoldFacts, ...] = ()
    worklist: WorklistPart | None = None
    pictures: tuple[PictureFacts, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def latest(self) -> ResultRecord | None:
        """The result that the worklist shows, else the latest."""
        shown = self.worklist.record if self.worklist else None
        return next((record for record in self.results if record.id == shown), None) or next(iter(self.results), None)

    @property
    def is_empty(self) -> bool:
        """Whether no place knows the upload."""
        return not (self.results or self.events or self.readings or (self.worklist and self.worklist.record))
