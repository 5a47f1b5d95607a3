"""Results as a DICOM Structured Report: a Comprehensive SR by template TID 1500, in the patient's own study.

A group by TID 1501 says of each finding: present, absent or indeterminate, the label, the calibrated probability and,
where there is one finding only, the thresholds between the labels; TID 4019 names the model with its version and
digest. The report refers to the image that was judged and is unverified: it is the model's, and says nothing of what a
reader made of it. The probability is that of the whole image and refers to its outline: viewers such as OHIF show
numbers at coordinates, and fail without.

All UIDs and times follow from the result, so making the report again gives the same bytes. They follow from its form
too: reports of an earlier form were sent with other UIDs, because archives keep the first content of a UID. Only
uploads that are DICOM have one: of others the patient is not known, and a report without a patient, or of a wrong one,
is worse than none.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError
from lungline.imaging.dicom_origin import MANUFACTURER
from lungline.results.records import REFUSED, ResultRecord
from lungline.task.terms import FindingTerms
from worklist.exports import codes as codes_of
from worklist.exports import source_header
from worklist.exports.codes import Presence
from worklist.exports.secondary_capture import DISCLAIMER

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification, ComprehensiveSR, MeasurementReport
    from pydicom import Dataset

SERIES = 9318  # beside the Secondary Capture's
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"
SCHEME = "99LUNGLINE"
_TEXT = 64  # characters of a coded meaning, and of a manufacturer's model
_PRESENCE = {"present": "Present", "absent": "Absent", "unsure": "Indeterminate"}
_FIGURES = 4
_OF_PIXELS = ("Rows", "Columns", "NumberOfFrames")
_FORM = "2"  # to be changed with whatever changes the content of reports


def structured_report(original: bytes, record: ResultRecord) -> bytes:
    """The report as a DICOM file; `original` is the upload.

    Malformed values of the upload are left out. Raises DataError when the result has no probability, or when the upload
    is no DICOM, belongs to no study or cannot be referred to.
    """
    from highdicom.sr import ComprehensiveSR

    quiet_dicom(__name__)
    quiet_dicom("highdicom")
    if not is_reported(record):
        raise DataError("The result has no probability, so there is nothing to report.")
    source = source_header.read_source(original)
    evidence = _evidence(source)
    document = ComprehensiveSR(
        evidence=[evidence],
        content=_content(evidence, record)[0],
        series_instance_uid=uids(record)[0],
        series_number=SERIES,
        sop_instance_uid=uids(record)[1],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=record.model.version[:_TEXT],
        series_description=f"{MANUFACTURER} {record.task} report (research)",
        is_complete=True,
        specific_character_set="ISO_IR 192",
    )
    _settle(document, source, record)
    out = io.BytesIO()
    document.save_as(out, enforce_file_format=True)
    return out.getvalue()


def is_reported(record: ResultRecord) -> bool:
    """Whether there is something to report of a result."""
    return record.label not in (None, REFUSED) and record.probability is not None


def uids(record: ResultRecord) -> tuple[str, str]:
    """The UIDs of the report's series and of the report."""
    return _uid(record.id, "report series", _FORM), _uid(record.id, "report", _FORM)


def _evidence(source: "Dataset") -> "Dataset":
    """What a report must know of the image that it refers to. Raises DataError."""
    from pydicom import Dataset

    study = source_header.study_uid(source)
    if study is None:
        raise DataError("The upload does not say which study it belongs to (StudyInstanceUID).")
    evidence = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        uid = source_header.valid_uid(source, keyword)
        if uid is None:
            raise DataError(f"A report cannot refer to the upload: its {keyword} is missing or malformed.")
        setattr(evidence, keyword, uid)
    evidence.StudyInstanceUID = study
    # Set once the report exists: the library warns of odd values, and quotes them.
    for keyword in source_header.COPIED:
        setattr(evidence, keyword, "")
    for keyword in _OF_PIXELS:
        setattr(evidence, keyword, source_header.valid_count(source, keyword))
    return evidence


def _settle(document: "ComprehensiveSR", source: "Dataset", record: ResultRecord) -> None:
    """Set the patient, and the result's times where the library has set the present one."""
    from pydicom import Dataset

    done = record.times.done.astimezone()  # local, as the times of the study are
    for keyword, value in source_header.valid_values(source).items():
        setattr(document, keyword, value)
    for name in ("Content", "InstanceCreation", "Series"):
        setattr(document, f"{name}Date", f"{done:%Y%m%d}")
        setattr(document, f"{name}Time", f"{done:%H%M%S}")
    for equipment in document.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = f"{done:%Y%m%d%H%M%S}"
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Lungline's own codes"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    document.CodingSchemeIdentificationSequence = [scheme]


def _content(evidence: "Dataset", record: ResultRecord) -> "MeasurementReport":
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=_uid(record.model.sha256, record.model.version, "device"),
            name=f"{MANUFACTURER} {record.model.name}"[:_TEXT],
            manufacturer_name=MANUFACTURER,
            model_name=record.model.name[:_TEXT],
        ),
    )
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("30745-4", "LN", "XR Chest Views"),
        imaging_measurements=[_group(evidence, record, *answer) for answer in codes_of.presences(record)],
    )


def _group(
    evidence: "Dataset", record: ResultRecord, finding: FindingTerms, presence: Presence | None, chance: float | None
) -> Any:
    """A finding, TID 1501."""
    from highdicom.sr import (
        CodedConcept,
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    group = MeasurementsAndQualitativeEvaluations(
        # The same for every model that judges this image, so that its results can be compared.
        tracking_identifier=TrackingIdentifier(
            uid=_uid(record.upload.identity, _tracked(record, finding)),
            identifier=f"{MANUFACTURER} {_tracked(record, finding)}",
        ),
        finding_type=CodedConcept(*_code(finding)),
        algorithm_id=_algorithm(record),
        measurements=_measurements(evidence, record, chance),
        qualitative_evaluations=_evaluations(record, finding, presence),
        source_images=[SourceImageForMeasurementGroup(evidence.SOPClassUID, evidence.SOPInstanceUID)],
    )
    group[0].ContentSequence.extend(_comments(record))
    return group


def _tracked(record: ResultRecord, finding: FindingTerms) -> str:
    """What a finding of an image is followed by, from report to report."""
    name = finding.name.lower().replace("_", "-")
    return record.task if len(record.task_terms.positives) == 1 else f"{record.task} {name}"


def _code(finding: FindingTerms) -> tuple[str, str, str]:
    code = finding.code
    if code is None:
        return finding.name.lower(), SCHEME, finding.label
    return code.value, code.scheme, code.meaning[:_TEXT]


def _algorithm(record: ResultRecord) -> "AlgorithmIdentification":
    """The model, TID 4019."""
    from highdicom.sr import AlgorithmIdentification
    from pydicom.sr.codedict import codes

    model, points = record.model, record.thresholds
    below, above = _words(record)
    parameters = [f"sha256 {model.sha256}", f"{below} below {points.low:.4g}", f"{above} from {points.high:.4g}"]
    if model.synthetic:
        parameters.append("trained on synthetic phantoms")
    return AlgorithmIdentification(
        name=model.name, version=model.version, parameters=parameters, manufacturer=MANUFACTURER,
        family=codes.cid7162.ArtificialIntelligence,
    )  # fmt: skip


def _words(record: ResultRecord) -> tuple[str, str]:
    """What a risk below and above the thresholds means."""
    terms = record.task_terms
    return terms.negative.label, terms.positives[0].label if len(terms.positives) == 1 else "A finding"


def _measurements(evidence: "Dataset", record: ResultRecord, chance: float | None) -> list[Any]:
    """The probability of the finding, and where there is one only, the thresholds of its labels."""
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    points, (below, above), region = record.thresholds, _words(record), _whole_image(evidence)
    values = [(codes.DCM.Probability, chance or 0.0)]
    if len(record.task_terms.positives) == 1:
        low = CodedConcept(f"threshold-{_word(below)}", SCHEME, f"Probability below which the label is {below}")
        high = CodedConcept(f"threshold-{_word(above)}", SCHEME, f"Probability from which the label is {above}")
        values += [(low, points.low), (high, points.high)]
    # Each with the region that it is about: OHIF 3.11 fails on a report with a number that has none.
    return [
        Measurement(name=name, value=round(value, _FIGURES), unit=codes.UCUM.NoUnits, referenced_coordinates=region)
        for name, value in values
    ]


def _whole_image(evidence: "Dataset") -> list[Any] | None:
    """The outline of the pixels that were judged, the first frame's; None when the header does not say their size."""
    from highdicom.sr import CoordinatesForMeasurement, SourceImageForRegion

    rows, columns, frames = (evidence[keyword].value for keyword in _OF_PIXELS)
    if not rows or not columns:
        return None
    image = SourceImageForRegion(evidence.SOPClassUID, evidence.SOPInstanceUID, [1] if frames > 1 else None)
    # OHIF 3.12 writes the numbers beside the first two points: at the left above, where they cover least.
    points = [(0, 0), (0, rows / 8), (0, rows), (columns, rows), (columns, 0), (0, 0)]
    return [CoordinatesForMeasurement("POLYLINE", np.array(points, np.float32), image)]


def _word(label: str) -> str:
    return label.lower().replace(" ", "-")


def _evaluations(record: ResultRecord, finding: FindingTerms, presence: Presence | None) -> list[Any]:
    from highdicom.sr import CodedConcept, QualitativeEvaluation
    from pydicom.sr.codedict import codes

    label = record.label or ""
    label_name = CodedConcept("label", SCHEME, "Label of the model")
    return [
        QualitativeEvaluation(CodedConcept(*_code(finding)), getattr(codes.SCT, _PRESENCE[presence or "unsure"])),
        QualitativeEvaluation(label_name, CodedConcept(_word(label), SCHEME, label)),
    ]


def _comments(record: ResultRecord) -> list[Any]:
    """What viewers show of a report that show texts and numbers alone; the second may be long."""
    from highdicom.sr import CodedConcept, RelationshipTypeValues, TextContentItem

    sentences = [f"{warning[:1].upper()}{warning[1:]}." for warning in record.warnings]
    texts = (
        f"{', '.join(record.present) or record.label}. {DISCLAIMER}",
        " ".join(["Calibrated probability of a model, not a reader's finding.", *sentences])[:1024],
    )
    name, contains = CodedConcept("121106", "DCM", "Comment"), RelationshipTypeValues.CONTAINS
    return [TextContentItem(name=name, value=text, relationship_type=contains) for text in texts]


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(sources))
