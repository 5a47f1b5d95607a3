"""Results as a DICOM Structured Report: a Comprehensive SR by template TID 1500, in the patient's own study.

One group by TID 1501 says of pneumonia: present, absent or indeterminate, the label, the calibrated probability and the
thresholds between the labels; TID 4019 names the model with its version and digest. The report refers to the image
that was judged and is unverified: it is the model's, and says nothing of what a reader made of it. The probability is
that of the whole image and refers to its outline: viewers such as OHIF show numbers at coordinates, and fail without.

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
from lungline.results.records import ResultRecord
from worklist.exports import source_header
from worklist.exports.secondary_capture import DISCLAIMER

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification, ComprehensiveSR, MeasurementReport
    from pydicom import Dataset

SERIES = 9318  # beside the Secondary Capture's
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"
SCHEME = "99LUNGLINE"
_TEXT = 64  # characters of a coded meaning, and of a manufacturer's model
PRESENCE = {"Pneumonia": "Present", "Normal": "Absent", "Unsure": "Indeterminate"}
_FIGURES = 4
_OF_PIXELS = ("Rows", "Columns", "NumberOfFrames")
_FORM = "2"  # to be changed with whatever changes the content of reports
PNEUMONIA = ("233604007", "SCT", "Pneumonia")


def structured_report(original: bytes, record: ResultRecord) -> bytes:
    """The report as a DICOM file; `original` is the upload.

    Malformed values of the upload are left out. Raises DataError when the result has no probability, or when the upload
    is no DICOM, belongs to no study or cannot be referred to.
    """
    from highdicom.sr import ComprehensiveSR

    quiet_dicom(__name__)
    quiet_dicom("highdicom")
    if record.label not in PRESENCE or record.probability is None:
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
        series_description="Lungline pneumonia report (research)",
        is_complete=True,
        specific_character_set="ISO_IR 192",
    )
    _settle(document, source, record)
    out = io.BytesIO()
    document.save_as(out, enforce_file_format=True)
    return out.getvalue()


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
        imaging_measurements=[_group(evidence, record)],
    )


def _group(evidence: "Dataset", record: ResultRecord) -> Any:
    """The finding, TID 1501."""
    from highdicom.sr import (
        CodedConcept,
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    group = MeasurementsAndQualitativeEvaluations(
        # The same for every model that judges this image, so that its results can be compared.
        tracking_identifier=TrackingIdentifier(
            uid=_uid(record.upload.identity, "pneumonia"), identifier=f"{MANUFACTURER} pneumonia"
        ),
        finding_type=CodedConcept(*PNEUMONIA),
        algorithm_id=_algorithm(record),
        measurements=_measurements(evidence, record),
        qualitative_evaluations=_evaluations(record),
        source_images=[SourceImageForMeasurementGroup(evidence.SOPClassUID, evidence.SOPInstanceUID)],
    )
    group[0].ContentSequence.extend(_comments(record))
    return group


def _algorithm(record: ResultRecord) -> "AlgorithmIdentification":
    """The model, TID 4019."""
    from highdicom.sr import AlgorithmIdentification
    from pydicom.sr.codedict import codes

    model, points = record.model, record.thresholds
    parameters = [f"sha256 {model.sha256}", f"Normal below {points.low:.4g}", f"Pneumonia from {points.high:.4g}"]
    if model.synthetic:
        parameters.append("trained on synthetic phantoms")
    return AlgorithmIdentification(
        name=model.name, version=model.version, parameters=parameters, manufacturer=MANUFACTURER,
        family=codes.cid7162.ArtificialIntelligence,
    )  # fmt: skip


def _measurements(evidence: "Dataset", record: ResultRecord) -> list[Any]:
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    points, region = record.thresholds, _whole_image(evidence)
    values = (
        (codes.DCM.Probability, record.probability or 0.0),
        (CodedConcept("threshold-normal", SCHEME, "Probability below which the label is Normal"), points.low),
        (CodedConcept("threshold-pneumonia", SCHEME, "Probability from which the label is Pneumonia"), points.high),
    )
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


def _evaluations(record: ResultRecord) -> list[Any]:
    from highdicom.sr import CodedConcept, QualitativeEvaluation
    from pydicom.sr.codedict import codes

    label = record.label or ""
    label_name = CodedConcept("label", SCHEME, "Label of the model")
    return [
        QualitativeEvaluation(CodedConcept(*PNEUMONIA), getattr(codes.SCT, PRESENCE[label])),
        QualitativeEvaluation(label_name, CodedConcept(label.lower(), SCHEME, label)),
    ]


def _comments(record: ResultRecord) -> list[Any]:
    """What viewers show of a report that show texts and numbers alone; the second may be long."""
    from highdicom.sr import CodedConcept, RelationshipTypeValues, TextContentItem

    sentences = [f"{warning[:1].upper()}{warning[1:]}." for warning in record.warnings]
    texts = (
        f"{record.label}. {DISCLAIMER}",
        " ".join(["Calibrated probability of a model, not a reader's finding.", *sentences])[:1024],
    )
    name, contains = CodedConcept("121106", "DCM", "Comment"), RelationshipTypeValues.CONTAINS
    return [TextContentItem(name=name, value=text, relationship_type=contains) for text in texts]


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(sources))
