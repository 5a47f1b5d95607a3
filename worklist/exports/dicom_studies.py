"""Studies, series and instances: what DICOM viewers search for, of the uploads whose header names them.

An upload is an instance; so are the report and the capture of its result, whose UIDs follow from the result. The
database searches for studies. It does not know the results' UIDs, so series and instances are made of uploads here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVarTuple

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from lungline.errors import LunglineError
from lungline.results.patients import readable
from lungline.results.records import ResultRecord
from worklist.database.ingest import MISSING
from worklist.database.models import PatientRow, ResultRow, WorklistEntry
from worklist.database.patients import fold
from worklist.exports import secondary_capture, structured_report

MOST_UPLOADS = 1000
"""Of which series and instances are made for one answer."""
Columns = TypeVarTuple("Columns")
_RECORD = TypeAdapter(ResultRecord)


class SearchTooWide(LunglineError):
    """A search for series or instances among more uploads than one answer is made of."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What a search matches; empty for everything. Texts may have the wildcards `*` and `?`, a date is YYYY-MM-DD."""

    patient_id: str = ""
    patient_name: str = ""
    accession: str = ""
    first_date: str = ""
    last_date: str = ""
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    modalities_in_study: tuple[str, ...] = ()

    @classmethod
    def at(cls, place: Mapping[str, str]) -> "Sought":
        """What an address names by study, series and instance."""
        fields = {"study": "studies", "series": "series", "instance": "instances"}
        return cls(**{fields[name]: (uid,) for name, uid in place.items()})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class Study:
    """A study: patient and study as its newest matching upload has them, and what it holds."""

    patient: PatientRow
    modalities: tuple[str, ...]
    series: int
    instances: int


@dataclass(frozen=True, slots=True)
class Instance:
    """An upload, or what its result adds to the patient's study."""

    form: Literal["upload", "report", "capture"]
    patient: PatientRow
    record: ResultRecord
    series_uid: str
    uid: str
    sop_class: str
    modality: str
    series_number: int | None = None

    @property
    def study_uid(self) -> str:
        """The study that it is of."""
        return self.patient.study_uid


def find_studies(session: Session, sought: Sought, limit: int, offset: int) -> tuple[list[Study], int]:
    """Matching studies, the newest first, and how many there are in all."""
    conditions = (*_of_study(sought), *_inside_study(sought))
    newest = func.max(WorklistEntry.arrived)
    dated = _uploads(select(PatientRow.study_uid, newest.label("newest")))
    matching = dated.where(*conditions).group_by(PatientRow.study_uid)
    total = session.scalar(select(func.count()).select_from(matching.subquery())) or 0
    order = (newest.desc(), PatientRow.study_uid)
    page = session.execute(matching.order_by(*order).limit(limit).offset(offset)).all()
    studies, moments = [study for study, _ in page], [moment for _, moment in page]
    rows = _uploads(select(PatientRow, WorklistEntry.arrived)).where(
        *conditions, PatientRow.study_uid.in_(studies), WorklistEntry.arrived.in_(moments)
    )
    shown = {(patient.study_uid, moment): patient for patient, moment in session.execute(rows)}
    held = _contents(session, studies)
    return [Study(shown[each], *held[each[0]]) for each in zip(studies, moments, strict=True) if each in shown], total


def find_instances(session: Session, sought: Sought) -> list[Instance]:
    """Matching instances, the newest upload first, each with its UID once. Raises SearchTooWide."""
    conditions = _of_study(sought)
    if not sought.studies:  # results are then not sought by their UIDs, which the database does not know
        conditions += _inside_study(replace(sought, modalities_in_study=()))
    statement = _uploads(select(PatientRow, ResultRow.body)).where(*conditions).order_by(*_NEWEST)
    rows = session.execute(statement.limit(MOST_UPLOADS + 1)).all()
    if len(rows) > MOST_UPLOADS:
        raise SearchTooWide(f"This is about more than {MOST_UPLOADS:,} images; name a study, a patient or a date.")
    made = [each for patient, body in rows for each in _instances_of(patient, _RECORD.validate_json(body))]
    return list({each.uid: each for each in reversed(made) if _matches(each, sought)}.values())[::-1]


def find_upload(session: Session, study: str, series: str, instance: str) -> Instance | None:
    """The newest upload with these UIDs, whatever else the study holds."""
    statement = _uploads(select(PatientRow, ResultRow.body)).where(
        PatientRow.study_uid == study, PatientRow.series_uid == series, PatientRow.instance_uid == instance
    )
    row = session.execute(statement.order_by(*_NEWEST).limit(1)).first()
    return _instances_of(row[0], _RECORD.validate_json(row[1]))[0] if row else None


def _uploads(statement: Select[*Columns]) -> Select[*Columns]:
    """Uploads that are there, are DICOM of a study, and are no results of ours that came back."""
    joined = statement.select_from(PatientRow).join(WorklistEntry, WorklistEntry.identity == PatientRow.identity)
    return joined.join(ResultRow, ResultRow.id == WorklistEntry.record).where(
        WorklistEntry.priority != MISSING,
        or_(WorklistEntry.reason.is_(None), WorklistEntry.reason != "own-result"),
        *(column != "" for column in (PatientRow.study_uid, PatientRow.series_uid, PatientRow.instance_uid)),
    )


_NEWEST = (WorklistEntry.arrived.desc(), WorklistEntry.number.desc())
_HAS_REPORT = WorklistEntry.probability.is_not(None)  # which judged results have, and no others
# A heatmap that is stored, or that can be drawn.
_HAS_CAPTURE = or_(ResultRow.body.not_like('%"heatmap":null%'), ResultRow.body.like('%"evidence":{%'))


def _of_study(sought: Sought) -> list[ColumnElement[bool]]:
    """Conditions on patient and study."""
    conditions: list[ColumnElement[bool]] = []
    for value, exact, folded in (
        (sought.patient_id, PatientRow.patient_id, PatientRow.sought_patient_id),
        (sought.accession, PatientRow.accession, PatientRow.sought_accession),
    ):
        if value:
            conditions.append(_like(folded, fold(value)) if _is_pattern(value) else exact == value)
    if sought.patient_name:
        conditions.append(_like(PatientRow.sought_name, fold(readable(sought.patient_name))))
    if sought.first_date or sought.last_date:
        conditions.append(PatientRow.study_date >= (sought.first_date or "0"))
    if sought.last_date:
        conditions.append(PatientRow.study_date <= sought.last_date)
    if sought.studies:
        conditions.append(PatientRow.study_uid.in_(sought.studies))
    return conditions


def _inside_study(sought: Sought) -> list[ColumnElement[bool]]:
    """Conditions on what a study has; modalities include those of results."""
    pairs = (
        (PatientRow.series_uid, sought.series),
        (PatientRow.instance_uid, sought.instances),
        (PatientRow.sop_class, sought.classes),
    )
    conditions: list[ColumnElement[bool]] = [column.in_(values) for column, values in pairs if values]
    for wanted in filter(None, (sought.modalities, sought.modalities_in_study)):
        results = [has for name, has in (("SR", _HAS_REPORT), ("OT", _HAS_CAPTURE)) if name in wanted]
        conditions.append(or_(PatientRow.modality.in_(wanted), *results))
    return conditions


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _like(column: InstrumentedAttribute[str], text: str) -> ColumnElement[bool]:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def _contents(session: Session, studies: Sequence[str]) -> dict[str, tuple[tuple[str, ...], int, int]]:
    """Modalities, number of series and number of instances of each study, with its results."""
    reports, captures = (func.sum(case((has, 1), else_=0)) for has in (_HAS_REPORT, _HAS_CAPTURE))
    counts = _uploads(
        select(
            PatientRow.study_uid,
            func.count(PatientRow.series_uid.distinct()),
            func.count(PatientRow.instance_uid.distinct()),
            reports,
            captures,
        )
    )
    named = _uploads(select(PatientRow.study_uid, PatientRow.modality).distinct())
    modalities: dict[str, set[str]] = {}
    for study, modality in session.execute(named.where(PatientRow.study_uid.in_(studies))):
        modalities.setdefault(study, set()).add(modality)
    held: dict[str, tuple[tuple[str, ...], int, int]] = {}
    where = PatientRow.study_uid.in_(studies)
    for study, series, instances, with_report, with_capture in session.execute(
        counts.where(where).group_by(PatientRow.study_uid)
    ):
        more = {name for name, number in (("SR", with_report), ("OT", with_capture)) if number}
        results = with_report + with_capture
        held[study] = (tuple(sorted(filter(None, modalities[study] | more))), series + results, instances + results)
    return held


def _instances_of(patient: PatientRow, record: ResultRecord) -> list[Instance]:
    """The upload, and what its result adds to the study: a series for each."""
    own = patient.series_uid, patient.instance_uid, patient.sop_class, patient.modality
    made = [Instance("upload", patient, record, *own)]
    if structured_report.is_reported(record):
        series, uid = structured_report.uids(record)
        number = structured_report.SERIES
        made.append(Instance("report", patient, record, series, uid, structured_report.SOP_CLASS, "SR", number))
    if record.has_heatmap:
        series, uid = secondary_capture.uids(record)
        number = secondary_capture.SERIES
        made.append(Instance("capture", patient, record, series, uid, secondary_capture.SOP_CLASS, "OT", number))
    return made


def _matches(instance: Instance, sought: Sought) -> bool:
    pairs = (
        (sought.series, instance.series_uid),
        (sought.instances, instance.uid),
        (sought.classes, instance.sop_class),
        (sought.modalities, instance.modality),
    )
    return all(not wanted or value in wanted for wanted, value in pairs)
