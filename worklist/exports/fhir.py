"""Results as FHIR R4: a DiagnosticReport that contains its Observations and the model as a Device.

Validated with fhir.resources' R4B models: DiagnosticReport, Observation and Device are the same in R4B (4.3.0) and R4
(4.0.1). The report is preliminary until a reader confirms or corrects it. It names no patient; receiving systems join
on the upload's identity.
"""

from typing import Any

from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord

CODES = "https://lungline.org/fhir/codes"
IDENTITIES = "https://lungline.org/fhir/uploads"
LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
DISCLAIMER = "Research use only. Not a medical device."

_INTERPRETATIONS = {"Pneumonia": ("POS", "Positive"), "Normal": ("NEG", "Negative"), "Unsure": ("IND", "Indeterminate")}
_VERDICTS = {"Pneumonia": ("POS", "Positive"), "Normal": ("NEG", "Negative")}


def report(record: ResultRecord, reading: ReadingRecord | None = None, *, corrects: bool = False) -> dict[str, Any]:
    """The validated DiagnosticReport of a result and its last reading, as JSON values.

    It `corrects` a final report that the receiver has had.
    """
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    observations = [_risk(record)] + ([_verdict(record, reading, corrects)] if reading and reading.verdict else [])
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
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "id": "risk",
        "status": "cancelled" if record.outcome != "judged" else "preliminary",
        "category": [_concept(CATEGORY, "imaging", "Imaging")],
        "code": _concept(CODES, "pneumonia-risk", "Calibrated probability of pneumonia on a chest radiograph"),
        "effectiveDateTime": (record.times.uploaded or record.times.received).isoformat(),
        "device": {"reference": "#model"},
    }
    if record.probability is None or record.label not in _INTERPRETATIONS:
        return observation | {"dataAbsentReason": _concept(ABSENT, "error", "Error")}
    quantity = {"value": round(record.probability, 4), "unit": "probability", "system": UCUM, "code": "1"}
    low, high = record.thresholds.low, record.thresholds.high
    return observation | {
        "valueQuantity": quantity,
        "interpretation": [_concept(INTERPRETATION, *_INTERPRETATIONS[record.label])],
        "referenceRange": [
            {"high": {"value": low, "system": UCUM, "code": "1"}, "text": f"below {low:.3f} Normal"},
            {"low": {"value": high, "system": UCUM, "code": "1"}, "text": f"from {high:.3f} on Pneumonia"},
        ],
    }


def _verdict(record: ResultRecord, reading: ReadingRecord, corrects: bool) -> dict[str, Any]:
    """The verdict as an Observation; the reader's name stays in the audit log."""
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "id": "reading",
        "status": "corrected" if corrects else "final",
        "category": [_concept(CATEGORY, "imaging", "Imaging")],
        "code": _concept(SNOMED, "233604007", "Pneumonia"),
        "effectiveDateTime": (record.times.uploaded or record.times.received).isoformat(),
        "issued": reading.at.isoformat(),
    }
    if reading.verdict not in _VERDICTS:
        return observation | {"status": "cancelled", "dataAbsentReason": _concept(ABSENT, "error", "Error")}
    return observation | {
        "valueBoolean": reading.verdict == "Pneumonia",
        "interpretation": [_concept(INTERPRETATION, *_VERDICTS[reading.verdict])],
    }


def _conclusion(record: ResultRecord, reading: ReadingRecord | None) -> str:
    if reading and reading.verdict:
        text = f"Read as {reading.verdict}."
    elif record.label and record.probability is not None:
        text = f"Model prediction: {record.label}, risk {record.probability:.1%}. Not confirmed by a reader."
    else:
        text = record.message or f"No result: the image is {record.outcome}."
    return f"{text} {DISCLAIMER}"


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}
