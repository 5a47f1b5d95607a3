"""DICOM in JSON (PS3.18 annex F): what searches answer, and the metadata of a file."""

import math
from collections.abc import Mapping
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError
from worklist.database.models import PatientRow
from worklist.exports.dicom_studies import Instance, Study
from worklist.exports.source_header import UNREADABLE, read_source

Json = dict[str, Any]

UTF_8 = "ISO_IR 192"
_BULK_BYTES = 1024


def study(held: Study, address: str) -> Json:
    """What a search says of a study; `address` is that of all studies."""
    values = {
        **_study_values(held.patient),
        "ModalitiesInStudy": held.modalities,
        "NumberOfStudyRelatedSeries": held.series,
        "NumberOfStudyRelatedInstances": held.instances,
        "RetrieveURL": f"{address}/{held.patient.study_uid}",
        # Not in the database; the metadata of an instance has them where its header has.
        **dict.fromkeys(("StudyTime", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyID"), ""),
    }
    return attributes(values)


def series(instances: list[Instance], address: str) -> Json:
    """What a search says of a series, by its matching instances."""
    first = instances[0]
    values = {
        **_study_values(first.patient),
        "Modality": first.modality,
        "SeriesInstanceUID": first.series_uid,
        "SeriesNumber": first.series_number,
        "NumberOfSeriesRelatedInstances": len(instances),
        "RetrieveURL": f"{address}/{first.study_uid}/series/{first.series_uid}",
    }
    return attributes(values)


def instance(held: Instance, address: str) -> Json:
    """What a search says of an instance."""
    values = {
        **_study_values(held.patient),
        "Modality": held.modality,
        "SeriesInstanceUID": held.series_uid,
        "SeriesNumber": held.series_number,
        "SOPClassUID": held.sop_class,
        "SOPInstanceUID": held.uid,
        "InstanceNumber": "" if held.form == "upload" else 1,
        "RetrieveURL": f"{address}/{held.study_uid}/series/{held.series_uid}/instances/{held.uid}",
    }
    return attributes(values)


def _study_values(patient: PatientRow) -> dict[str, object]:
    return {
        "SpecificCharacterSet": UTF_8,
        "InstanceAvailability": "ONLINE",
        "StudyDate": patient.study_date.replace("-", ""),
        "AccessionNumber": patient.accession,
        "PatientName": patient.name,
        "PatientID": patient.patient_id,
        "IssuerOfPatientID": patient.issuer,
        "StudyInstanceUID": patient.study_uid,
    }


def attributes(values: Mapping[str, object]) -> Json:
    """Attributes by keyword as DICOM JSON; "" and None are attributes without a value."""
    made: Json = {}
    for keyword, value in values.items():
        listed: list[object] = list(value) if isinstance(value, tuple) else [value]  # pyright: ignore[reportUnknownArgumentType]
        vr = dictionary_VR(keyword)
        there = [{"Alphabetic": each} if vr == "PN" else each for each in listed if each not in ("", None)]
        made[f"{tag_for_keyword(keyword):08X}"] = {"vr": vr, "Value": there} if there else {"vr": vr}
    return dict(sorted(made.items()))


def metadata(data: bytes) -> Json:
    """The header of a DICOM file; pixels and other long binary values are left out. Raises DataError."""
    quiet_dicom(__name__)
    header = read_source(data)
    try:
        header.walk(_drop_bulk)
        header.SpecificCharacterSet = UTF_8
        document: Json = header.to_json_dict(suppress_invalid_tags=True)
        return _finite(document)
    except UNREADABLE as exc:
        # Without the library's message, which may quote the patient's data.
        raise DataError(f"The header of the upload cannot be read ({type(exc).__name__}).") from None


def _drop_bulk(parent: Dataset, element: DataElement) -> None:
    if isinstance(element.value, bytes) and len(element.value) > _BULK_BYTES:
        del parent[element.tag]


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_finite(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value
