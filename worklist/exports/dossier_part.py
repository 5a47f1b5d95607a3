"""What the worklist knows of one upload, for its dossier, and which uploads a name stands for."""

from typing import TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from lungline.dossier.parts import AuditFacts, DeliveryFacts, NoticeFacts, WorklistPart
from worklist.database import deliveries, entries, notices, patients, readings
from worklist.database.models import Audit, PatientRow, ResultRow, WorklistEntry

MOST_IDENTITIES = 20

Facts = TypeVar("Facts", bound=BaseModel)


def part_of(session: Session, identity: str) -> WorklistPart:
    """Notices, deliveries, readings and looks of an upload; empty parts for an unknown one."""
    entry = entries.find(session, identity)
    row = session.get(ResultRow, entry.record) if entry else None
    looks = session.scalars(select(Audit).where(Audit.identity == identity).order_by(Audit.number))
    return WorklistPart(
        record=entry.record if entry else None,
        capture_error=row.capture_error if row else None,
        readings=tuple(readings.record_of(each) for each in readings.history(session, identity)),
        notices=tuple(_facts(NoticeFacts, each) for each in reversed(notices.of_upload(session, identity))),
        deliveries=tuple(_facts(DeliveryFacts, each) for each in reversed(deliveries.of_upload(session, identity))),
        audit=tuple(_facts(AuditFacts, each) for each in looks),
    )


def identities_named(session: Session, name: str) -> set[str]:
    """The uploads with an accession number or an object key."""
    by_accession = select(PatientRow.identity).where(PatientRow.sought_accession == patients.fold(name))
    by_key = select(WorklistEntry.identity).where(WorklistEntry.key == name)
    return {
        identity for wanted in (by_accession, by_key) for identity in session.scalars(wanted.limit(MOST_IDENTITIES))
    }


def _facts(kind: type[Facts], row: object) -> Facts:
    """The columns of a row that a part has, by their names."""
    return kind.model_validate({name: getattr(row, name) for name in kind.model_fields})
