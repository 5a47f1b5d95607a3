"""What a DICOM header says of its image, for rules: kind, part, view and maker; nothing of the patient."""

from dataclasses import dataclass

from lungline.errors import ImageRefused
from lungline.imaging import dicom_geometry, dicom_origin, dicom_view
from lungline.imaging.dicom_header import CHARACTER_SET, MEDIA_CLASS, DicomFile

_TAGS = {
    "sop_class": 0x00080016,
    "modality": 0x00080060,
    "body_part": 0x00180015,
    "view": 0x00185101,
    "intent": 0x00080068,
    "burned_in": 0x00280301,
    "manufacturer": 0x00080070,
}
NAMES = tuple(_TAGS)
"""The elements that rules may ask for."""
NEEDED = frozenset((*_TAGS.values(), CHARACTER_SET, *dicom_view.NEEDED, *dicom_geometry.NEEDED, *dicom_origin.NEEDED))


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """The values of a header by the names in NAMES, in upper case, empty where the header has none.

    `not_frontal` is why the header rules out a frontal chest X-ray, None if it does not; `is_own` is whether Lungline
    wrote the object.
    """

    values: dict[str, str]
    not_frontal: str | None
    is_own: bool


def facts_of(header: DicomFile) -> DicomFacts | None:
    """What a header with the elements in NEEDED says of its image; None where it cannot be read."""
    file = header.only(NEEDED)
    try:
        not_frontal = dicom_view.read_view(file).not_frontal or dicom_geometry.read_turn(file).not_frontal
    except ImageRefused:
        return None
    values = {name: _value(file, tag) for name, tag in _TAGS.items()}
    values["sop_class"] = values["sop_class"] or file.text(MEDIA_CLASS)
    return DicomFacts(values, not_frontal, dicom_origin.is_own(file))


def _value(file: DicomFile, tag: int) -> str:
    return " ".join(file.words(tag).strip(" \0").upper().split())
