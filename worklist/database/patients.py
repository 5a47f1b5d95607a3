"""Whom uploads are of, for those who may see it: shown beside the result, searched for, and linked to earlier images.

The rows are copies of what the patients bucket holds, and can be made again from it (`lungline worklist rebuild`). They
have a table of their own, so that nothing else of the worklist reads them by accident.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from lungline.results.patients import PatientRecord, readable
from worklist.database.models import PatientRow, WorklistEntry

MOST_MATCHES = 500
"""Of a search for a name; an accession number or a patient ID has a handful."""


def remember(session: Session, *records: PatientRecord) -> None:
    """Store whom uploads are of, once however often it is said."""
    for record in records:
        fields = record.model_dump(exclude={"schema_version"})
        folded = {f"sought_{name}": fold(fields[name]) for name in ("patient_id", "accession")}
        session.merge(PatientRow(**fields, **folded, sought_name=fold(readable(record.name))))


def matches(session: Session, query: str) -> frozenset[int]:
    """The numbers of entries whose accession number or patient ID is the query; else, whose patient's name has it."""
    wanted = fold(query)
    if not wanted:
        return frozenset()
    # Two questions, because the first has indexes, and a name must be looked for in every row.
    exact = or_(PatientRow.sought_patient_id == wanted, PatientRow.sought_accession == wanted)
    return _numbers(session, exact) or _numbers(session, PatientRow.sought_name.contains(wanted, autoescape=True))


def of_upload(session: Session, identity: str) -> PatientRow | None:
    """Whom an upload is of; None when it was not DICOM or its header names nobody."""
    return session.get(PatientRow, identity)


def of_uploads(session: Session, identities: Collection[str]) -> list[PatientRow]:
    """Whom these uploads are of, as far as it is stored."""
    return list(session.scalars(select(PatientRow).where(PatientRow.identity.in_(identities))))


def other_images(session: Session, patient: PatientRow, limit: int = 12) -> list[tuple[WorklistEntry, PatientRow]]:
    """Other images of the same patient, the newest first: the same ID, given by the same issuer.

    The name need not be the same, because names change and are misspelled; who shows them shows a differing name too.
    """
    if not patient.patient_id:
        return []
    statement = (
        select(WorklistEntry, PatientRow)
        .join(PatientRow, PatientRow.identity == WorklistEntry.identity)
        .where(
            PatientRow.patient_id == patient.patient_id,
            PatientRow.issuer == patient.issuer,
            PatientRow.identity != patient.identity,
        )
        .order_by(WorklistEntry.arrived.desc())
        .limit(limit)
    )
    return [(entry, row) for entry, row in session.execute(statement)]


def _numbers(session: Session, condition: ColumnElement[bool]) -> frozenset[int]:
    statement = select(WorklistEntry.number).join(PatientRow, PatientRow.identity == WorklistEntry.identity)
    newest = statement.where(condition).order_by(WorklistEntry.arrived.desc()).limit(MOST_MATCHES)
    return frozenset(session.scalars(newest))


def fold(text: str) -> str:
    """A text as searches compare it: without case, and with single spaces."""
    return " ".join(text.casefold().split())
