"""Delivery to a FHIR R4 server: one transaction that creates what is not there yet.

DiagnosticReport, its Observations and the ImagingStudy of the X-ray, each with the patient as subject by identifier.
Each is created on the condition that the server has none with its identifier (`ifNoneExist`, which is the If-None-Exist
of a single request), so the same delivery twice is one report; the transaction is taken as a whole or not at all. A
report with a reader's verdict has another identifier than the one before it, which it replaces: the preliminary one, or
that with an earlier verdict.
"""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from lungline.results.patients import PatientRecord
from worklist.delivery.http import HttpChannel, require_taken
from worklist.delivery.parcel import Finding, is_uid
from worklist.destinations import FhirDestination
from worklist.exports import fhir

if TYPE_CHECKING:
    import httpx2

STUDIES = "urn:dicom:uid"
MODALITIES = "http://dicom.nema.org/resources/ontology/DCM"
PRIORITIES = "http://terminology.hl7.org/CodeSystem/v3-ActPriority"
_REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
_HEADERS = {"content-type": "application/fhir+json", "accept": "application/fhir+json", "prefer": "return=minimal"}
IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"


class FhirChannel(HttpChannel[Finding, FhirDestination]):
    """Creates the resources of results, each result by a transaction."""

    def _exchange(self, connection: "httpx2.Client", content: Finding) -> None:
        ours = self._destination
        value = transaction(content, ours.patient_system, with_priority=ours.priority)
        require_taken(self._post(connection, json.dumps(value).encode(), _HEADERS))


def transaction(finding: Finding, patient_system: str | None = None, *, with_priority: bool = False) -> dict[str, Any]:
    """The validated transaction of a result, as JSON values."""
    from fhir.resources.R4B.bundle import Bundle

    record = finding.record
    subject = _subject(finding.patient, patient_system)
    report = fhir.report(record, finding.reading, corrects=finding.corrects)
    imaging = _imaging_study(finding.patient, subject)
    entries = [_entry(imaging, STUDIES, imaging["identifier"][0]["value"])]
    device = next(each for each in report["contained"] if each["resourceType"] == "Device")
    for observation in report["contained"]:
        if observation["resourceType"] != "Observation":
            continue
        name = "risk" if "device" in observation else finding.name
        identifier = f"{record.id}/{name}"
        observed = {name: value for name, value in observation.items() if name != "id"}
        contained = {"contained": [device]} if "device" in observed else {}
        observed |= contained | {"identifier": [_identifier(fhir.IDENTITIES, identifier)], "subject": subject}
        entries.append(_entry(observed, fhir.IDENTITIES, identifier))
    identifier = f"{record.id}/{finding.name}"
    report = {name: value for name, value in report.items() if name not in ("id", "contained")}
    results = [{"reference": entry["fullUrl"]} for entry in entries[1:]]
    report |= {"subject": subject, "result": results, "imagingStudy": [{"reference": entries[0]["fullUrl"]}]}
    report |= {"identifier": [_identifier(fhir.IDENTITIES, identifier)]}
    if finding.replaces:
        earlier = _identifier(fhir.IDENTITIES, f"{record.id}/{finding.replaces}")
        report["extension"] = [
            {"url": _REPLACES, "valueReference": {"type": "DiagnosticReport", "identifier": earlier}}
        ]
    if with_priority and (priority := finding.priority):
        # The resource has no field for it, and a Flag is of a patient's whole care, not of a list of images.
        report["meta"] = {"tag": [{"system": PRIORITIES, "code": priority.code, "display": priority.meaning}]}
    entries.append(_entry(report, fhir.IDENTITIES, identifier))
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return Bundle.model_validate(bundle).model_dump(mode="json", exclude_none=True)


def _entry(resource: dict[str, Any], system: str, value: str) -> dict[str, Any]:
    kind = resource["resourceType"]
    # The same in each attempt; the server replaces it by an address of its own.
    address = uuid5(NAMESPACE_URL, f"{kind} {system} {value}").urn
    condition = f"identifier={quote(system, safe=':/')}|{quote(value, safe=':/')}"
    request = {"method": "POST", "url": kind, "ifNoneExist": condition}
    return {"fullUrl": address, "resource": resource, "request": request}


def _subject(patient: PatientRecord, patient_system: str | None) -> dict[str, Any]:
    """The patient by identifier, without a name: the receiver has one of its own."""
    identifier = {"value": patient.patient_id}
    return {"type": "Patient", "identifier": identifier | ({"system": patient_system} if patient_system else {})}


def _identifier(system: str, value: str) -> dict[str, Any]:
    return {"system": system, "value": value}


def _imaging_study(patient: PatientRecord, subject: dict[str, Any]) -> dict[str, Any]:
    identifiers = [_identifier(STUDIES, f"urn:oid:{patient.study_uid}")]
    if patient.accession:
        kind = {"coding": [{"system": IDENTIFIER_TYPES, "code": "ACSN"}]}
        identifiers.append({"type": kind, "value": patient.accession})
    imaging: dict[str, Any] = {
        "resourceType": "ImagingStudy", "identifier": identifiers, "status": "available", "subject": subject,
    }  # fmt: skip
    if patient.study_date:
        imaging["started"] = patient.study_date
    if all(map(is_uid, (patient.series_uid, patient.instance_uid, patient.sop_class))):
        sop_class = {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{patient.sop_class}"}
        instance = {"uid": patient.instance_uid, "sopClass": sop_class}
        modality = {"system": MODALITIES, "code": patient.modality or "OT"}
        imaging["series"] = [{"uid": patient.series_uid, "modality": modality, "instance": [instance]}]
    return imaging
