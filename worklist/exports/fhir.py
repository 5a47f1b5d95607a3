"""Results as FHIR R4: a DiagnosticReport that contains its Observations and the model as a Device.

Validated with fhir.resources' R4B models: DiagnosticReport, Observation and Device are the same in R4B (4.3.0) and R4
(4.0.1). The report is preliminary until a reader confirms or corrects it. It names no patient; receiving systems join
on the upload's identity.
"""

from typing import Any

from lungline.results.readings import NOT_USABLE, ReadingRecord
from lungline.results.records import UNSURE, ResultRecord
from lungline.task.terms import FindingTerms, TaskTerms
from worklist.exports import codes

CODES = "https://lungline.org/fhir/codes"
IDENTITIES = "https://lungline.org/fhir/uploads"
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
DISCLAIMER = "Research use only. Not a medical device."

SYSTEMS = {
    "SCT": SNOMED,
    "LN": LOINC,
    "RADLEX": "http://radlex.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
}
_PRESENCES = {"present": ("POS", "Positive"), "absent": ("NEG", "Negative"), "unsure": ("IND", "Indeterminate")}


def report(record: ResultRecord, reading: ReadingRecord | None = None, *, corrects: bool = False) -> dict[str, Any]:
    """The validated DiagnosticReport of a result and its last reading, as JSON values.

    It `corrects` a final report that the receiver has had.
    """
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    observations = [_risk(record), *_findings(record)]
    if reading and reading.verdict:
        observations += _verdicts(record, reading, corrects)
    value = {
        "resourceType": "DiagnosticReport",
        "id": record.upload.identity,
        "contained": [_device(record), *observations],
        "identifier": [{"system": IDENTITIES, "value": record.id}],
        "status": _status(record, reading, corrects),
        "category": [_concept(SERVICE, "RAD", "Radiology")],
        "code": _concept(LOINC, "30745-4", "XR Chest Views"),
        "effectiveDateTime": (record.times.uploaded or record.times.received).isoformat(),
        "issued": (reading.at if reading else record.times.done).isoformat(),
        "result": [{"reference": f"#{observation['id']}"} for observation in observations],
        "conclusion": _conclusion(record, reading),
    }
    # Only our own values, without defaults that the library adds.
    return DiagnosticReport.model_validate(value).model_dump(mode="json", exclude_none=True)


def _status(record: ResultRecord, reading: ReadingRecord | None, corrects: bool) -> str:
    if record.outcome in ("gone", "superseded") or (reading and reading.verdict == "Not usable"):
        return "cancelled"
    if reading is None or not reading.verdict:
        return "preliminary"
    return "corrected" if corrects else "final"


def _device(record: ResultRecord) -> dict[str, Any]:
    model = record.model
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"system": f"{CODES}/models", "value": model.sha256}],
        "deviceName": [{"name": f"Lungline {model.name}", "type": "model-name"}],
        "version": [{"value": model.version}],
        "note": [{"text": DISCLAIMER + (" Trained on synthetic phantoms." if model.synthetic else "")}],
    }


def _risk(record: ResultRecord) -> dict[str, Any]:
    terms = record.task_terms
    what = f"Calibrated probability of {codes.positive_words(terms)} on a chest radiograph"
    observation = _observation(record, "risk", _concept(CODES, f"{terms.name}-risk", what))
    observation |= {
        "status": "cancelled" if record.outcome != "judged" else "preliminary",
        "device": {"reference": "#model"},
    }
    meaning = _meaning(terms, record.label)
    if record.probability is None or meaning is None:
        return observation | {"dataAbsentReason": _concept(ABSENT, "error", "Error")}
    low, high = record.thresholds.low, record.thresholds.high
    above = terms.positives[0].label if len(terms.positives) == 1 else "a finding"
    return observation | {
        "valueQuantity": _probability(record.probability),
        "interpretation": [_concept(INTERPRETATION, *meaning)],
        "referenceRange": [
            {"high": {"value": low, "system": UCUM, "code": "1"}, "text": f"below {low:.3f} {terms.negative.label}"},
            {"low": {"value": high, "system": UCUM, "code": "1"}, "text": f"from {high:.3f} on {above}"},
        ],
    }


def _findings(record: ResultRecord) -> list[dict[str, Any]]:
    """The model's answer about each finding, where the task has several."""
    by_name = {finding.name: finding for finding in record.task_terms.positives}
    return [
        _observation(record, f"finding-{_id(each.name)}", _finding_concept(record, by_name[each.name]))
        | {
            "status": "preliminary",
            "device": {"reference": "#model"},
            "valueQuantity": _probability(each.probability),
            "interpretation": [_concept(INTERPRETATION, *_PRESENCES[each.presence])],
        }
        for each in record.findings
        if each.name in by_name
    ]


def _verdicts(record: ResultRecord, reading: ReadingRecord, corrects: bool) -> list[dict[str, Any]]:
    """What the reader says of each finding; the reader's name stays in the audit log."""
    terms, several = record.task_terms, len(record.task_terms.positives) > 1
    presences = {} if reading.verdict == NOT_USABLE else reading.findings or terms.presences(reading.verdict or "")
    made: list[dict[str, Any]] = []
    for finding in terms.positives if presences or not several else terms.positives[:1]:
        name = f"reading-{_id(finding.name)}" if several else "reading"
        observation = _observation(record, name, _finding_concept(record, finding))
        observation |= {"status": "corrected" if corrects else "final", "issued": reading.at.isoformat()}
        if finding.name not in presences:
            made.append(observation | {"status": "cancelled", "dataAbsentReason": _concept(ABSENT, "error", "Error")})
            continue
        presence = presences[finding.name]
        value = {"valueBoolean": presence == "present"}
        made.append(observation | value | {"interpretation": [_concept(INTERPRETATION, *_PRESENCES[presence])]})
    return made


def _observation(record: ResultRecord, name: str, code: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "category": [_concept(CATEGORY, "imaging", "Imaging")],
        "code": code,
        "effectiveDateTime": (record.times.uploaded or record.times.received).isoformat(),
    }


def _meaning(terms: TaskTerms, label: str | None) -> tuple[str, str] | None:
    finding = terms.labelled(label)
    if finding is None:
        return _PRESENCES["unsure"] if label == UNSURE else None
    return _PRESENCES["absent" if finding.negative else "present"]


def _finding_concept(record: ResultRecord, finding: FindingTerms) -> dict[str, Any]:
    if finding.code:
        return _concept(SYSTEMS[finding.code.scheme], finding.code.value, finding.code.meaning)
    return _concept(CODES, f"{record.task}-{_id(finding.name)}", finding.label)


def _id(name: str) -> str:
    return name.lower().replace("_", "-")


def _probability(value: float) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": "probability", "system": UCUM, "code": "1"}


def _conclusion(record: ResultRecord, reading: ReadingRecord | None) -> str:
    if reading and reading.verdict:
        text = f"Read as {codes.read_as(record.task_terms, reading)}."
    elif record.label and record.probability is not None:
        labels = ", ".join(record.present) or record.label
        text = f"Model prediction: {labels}, risk {record.probability:.1%}. Not confirmed by a reader."
    else:
        text = record.message or f"No result: the image is {record.outcome}."
    return f"{text} {DISCLAIMER}"


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}
