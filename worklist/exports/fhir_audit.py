"""The audit log as FHIR R4 AuditEvents, one a line, for a hospital's audit repository.

Types and subtypes are those of DICOM's audit messages (PS3.15 annex A.5, PS3.16 CID 400 and 401), as FHIR itself takes
them. An event names the user, and uploads by identity; no patient, because the log names none. The hash of the entry
goes along, so that the chain can be checked wherever the events end.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from worklist.database.models import Audit
from worklist.exports.fhir import CODES, IDENTITIES

DCM = "http://dicom.nema.org/resources/ontology/DCM"
OBJECT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
BATCH = 500

_LOGIN = ("110114", "User Authentication")
_ACCESSED = ("110103", "DICOM Instances Accessed")
_RECORD = ("110110", "Patient Record")
# Type and action (create, read, update, delete, execute) of each act; others were looks at an upload.
_TYPES: dict[str, tuple[tuple[str, str], str]] = {
    "signed in": (_LOGIN, "E"),
    "signed out": (_LOGIN, "E"),
    "searched": (("110112", "Query"), "E"),
    "listed": (("110112", "Query"), "E"),
    "exported": (("110106", "Export"), "R"),
    "delivered": (("110106", "Export"), "R"),
    "restored": (("110100", "Application Activity"), "E"),
    "saw patient": (_RECORD, "R"),
    **dict.fromkeys(("read", "confirmed", "corrected", "reopened", "acknowledged"), (_RECORD, "U")),
    "erased": (("110105", "DICOM Study Deleted"), "D"),
}
_SUBTYPES = {"signed in": ("110122", "Login"), "signed out": ("110123", "Logout")}

Reading = Callable[[], AbstractContextManager[Session]]
"""Opens a session that reads."""


def audit_lines(reading: Reading) -> Iterator[str]:
    """Every entry of the log as a validated AuditEvent, the oldest first, one a line as in FHIR bulk data."""
    last = 0
    while True:
        with reading() as session:
            chosen = select(Audit).where(Audit.number > last).order_by(Audit.number).limit(BATCH)
            entries = list(session.scalars(chosen))
        if not entries:
            return
        last = entries[-1].number
        yield from (json.dumps(audit_event(entry)) + "\n" for entry in entries)


def audit_event(entry: Audit) -> dict[str, Any]:
    """The validated AuditEvent of an entry, as JSON values."""
    from fhir.resources.R4B.auditevent import AuditEvent

    kind, action = _TYPES.get(entry.act, (_ACCESSED, "R"))
    code, display = _SUBTYPES.get(entry.act, ("", ""))
    subtype = _coding(DCM, code, display) if code else _coding(f"{CODES}/acts", entry.act.replace(" ", "-"), entry.act)
    value = {
        "resourceType": "AuditEvent",
        "id": f"audit-{entry.number}",
        "type": _coding(DCM, *kind),
        "subtype": [subtype],
        "action": action,
        "recorded": entry.at.astimezone(UTC).isoformat(),
        "outcome": "0",
        "agent": [_agent(entry)],
        "source": {
            "observer": {"display": "Lungline worklist"},
            "type": [_coding(SOURCE_TYPE, "4", "Application Server")],
        },
        "entity": [_entity(entry)],
    }
    return AuditEvent.model_validate(value).model_dump(mode="json", exclude_none=True)


def _agent(entry: Audit) -> dict[str, Any]:
    """Who did it; the worklist itself does things without a role."""
    agent: dict[str, Any] = {"who": {"display": entry.who}, "altId": entry.who, "requestor": entry.role != "none"}
    return agent | {"role": [{"coding": [{"system": f"{CODES}/roles", "code": entry.role}]}]}


def _entity(entry: Audit) -> dict[str, Any]:
    details = {"number": str(entry.number), "hash": entry.hash or "", "detail": entry.detail}
    entity: dict[str, Any] = {
        "type": _coding(OBJECT_TYPE, "2", "System Object"),
        "detail": [{"type": name, "valueString": text} for name, text in details.items() if text],
    }
    if entry.identity:
        entity["what"] = {"identifier": {"system": IDENTITIES, "value": entry.identity}}
    return entity


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}
