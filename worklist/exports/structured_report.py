"""Results as a DICOM Structured Report: a Comprehensive SR by template TID 1500, in the patient's own study.

One group by TID 1501 says of pneumonia: present, absent or indeterminate, the label, the calibrated probability and the
thresholds between the labels; TID 4019 names the model with its version and digest. The report refers to the image
that was judged and is unverified: it is the model's, and says nothing of what a reader made of it.

All UIDs and times follow from the result, so making the report again gives the same bytes. Only uploads that are DICOM
have one: of others the patient is not known, and a report without a patient, or of a wrong one, is worse than none.
"""

import io
from typing import TYPE_CHECKING, Any

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
    return _uid(record.id, "report series"), _uid(record.id, "report")


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
        measurements=_measurements(record),
        qualitative_evaluations=_evaluations(record),
        source_images=[SourceImageForMeasurementGroup(evidence.SOPClassUID, evidence.SOPInstanceUID)],
    )
    group[0].ContentSequence.append(_comment(record))
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


def _measurements(record: ResultRecord) -> list[Any]:
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    points = record.thresholds
    values = (
        (codes.DCM.Probability, record.probability or 0.0),
        (CodedConcept("threshold-normal", SCHEME, "Probability below which the label is Normal"), points.low),
        (CodedConcept("threshold-pneumonia", SCHEME, "Probability from which the label is Pneumonia"), points.high),
    )
    return [Measurement(name=name, value=round(value, _FIGURES), unit=codes.UCUM.NoUnits) for name, value in values]


def _evaluations(record: ResultRecord) -> list[Any]:
    from highdicom.sr import CodedConcept, QualitativeEvaluation
    from pydicom.sr.codedict import codes

    label = record.label or ""
    label_name = CodedConcept("label", SCHEME, "Label of the model")
    return [
        QualitativeEvaluation(CodedConcept(*PNEUMONIA), getattr(codes.SCT, PRESENCE[label])),
        QualitativeEvaluation(label_name, CodedConcept(label.lower(), SCHEME, label)),
    ]


def _comment(record: ResultRecord) -> Any:
    from highdicom.sr import CodedConcept, RelationshipTypeValues, TextContentItem

    sentences = [f"{warning[:1].upper()}{warning[1:]}." for warning in record.warnings]
    return TextContentItem(
        name=CodedConcept("121106", "DCM", "Comment"),
        value=" ".join([DISCLAIMER, "Calibrated probability of a model, not a reader's finding.", *sentences])[:1024],
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(sources))
