"""What is delivered of one result: its DICOM instances, or the finding with whom it is about.

Instances belong to the patient's study and are made of the upload's own header. Whom a finding is about is what the
patients bucket holds. Neither is kept longer than the attempt, nor read before it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lungline.errors import DataError, ObjectGone
from lungline.results import patients
from lungline.results.patients import PatientRecord
from lungline.results.readings import ReadingRecord
from lungline.results.records import REFUSED, UNSURE, ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.finding import Urgency
from worklist.database.deliveries import Earlier
from worklist.destinations import Instance
from worklist.exports.images import ImageRenderer
from worklist.exports.study_instances import instances_of

_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")

Instances = Sequence[tuple[Instance, bytes]]


@dataclass(frozen=True, slots=True)
class Priority:
    """An urgency by HL7's tables 0485 and ActPriority, whose codes are the same."""

    code: str
    meaning: str


_STAT, _SOON, _ROUTINE = Priority("S", "stat"), Priority("A", "ASAP"), Priority("R", "routine")
_PRIORITIES: dict[Urgency, Priority] = {"urgent": _STAT, "soon": _SOON, "routine": _ROUTINE}


@dataclass(frozen=True, slots=True)
class Finding:
    """One result, the last verdict of a reader, and whom it is of; patient ID and study UID are there and valid.

    `earlier` is what the destination has had of the same result.
    """

    record: ResultRecord
    reading: ReadingRecord | None
    patient: PatientRecord = field(repr=False)
    earlier: Earlier | None = None

    @property
    def name(self) -> str:
        """What tells the reports of one result apart: its reader's verdict, or none yet."""
        return _name(self.reading.id if self.reading else None)

    @property
    def corrects(self) -> bool:
        """Whether the destination has had a final report, which this one corrects."""
        return self.earlier is not None and self.earlier.is_final

    @property
    def replaces(self) -> str | None:
        """The name of the report that this one takes the place of."""
        if self.earlier is None or (self.earlier.is_final and self.earlier.reading is None):
            return None
        name = _name(self.earlier.reading)
        return None if name == self.name else name

    @property
    def priority(self) -> Priority | None:
        """How soon the X-ray should be read; None once it was."""
        if self.reading or self.record.label == REFUSED:
            return None
        if self.record.label == UNSURE:
            return _SOON
        finding = self.record.task_terms.labelled(self.record.label)
        return finding and (_ROUTINE if finding.negative else _PRIORITIES[finding.urgency])


class Packer:
    """Makes what is delivered, at the moment when it is."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._patients = settings.patients_bucket
        self._images = ImageRenderer(storage, settings)

    def instances(self, record: ResultRecord, wanted: Sequence[Instance]) -> Instances:
        """DICOM files by their kind; no capture of a result without a heatmap.

        The upload is given back before anything is sent, so that a slow destination holds no memory of images. Raises
        DataError, StorageUnavailable, Busy.
        """
        kinds: list[Instance] = [kind for kind in wanted if kind == "report" or record.has_heatmap]
        if not kinds:
            raise DataError("The result has no heatmap, and the destination is sent nothing else.")
        try:
            with instances_of(record, self._images) as made:
                makers = {"report": made.report, "capture": made.capture}
                return [(kind, makers[kind]()) for kind in kinds]
        except ObjectGone:
            raise DataError("The upload or its heatmap is not in the store any longer.") from None

    def finding(self, record: ResultRecord, reading: ReadingRecord | None, earlier: Earlier | None = None) -> Finding:
        """Raises DataError when it is not known whom the result is of, StorageUnavailable."""
        identity = record.upload.identity
        patient = patients.load(self._storage, self._patients, identity) if record.patient else None
        if patient is None or not patient.patient_id or not is_uid(patient.study_uid):
            raise DataError("The upload names no patient or no study, so no other system could file the result.")
        return Finding(record, reading, patient, earlier)


def _name(reading: str | None) -> str:
    return f"reading-{reading}" if reading else "preliminary"


def is_uid(text: str) -> bool:
    """Whether a text is a UID that the standard allows (DICOM PS3.5, section 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None
