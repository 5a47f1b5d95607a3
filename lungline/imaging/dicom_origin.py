"""How the DICOM objects that Lungline writes name their origin, so that they are recognised when they come back.

A PACS may route everything of a study to every system that it knows. A result that is judged in its turn would give
another result, and so on without end.
"""

from lungline.imaging.dicom_header import DicomFile

MANUFACTURER = "Lungline"
"""Manufacturer and model name of every DICOM object that Lungline writes."""
_MANUFACTURER, _MODEL_NAME = 0x00080070, 0x00081090
NEEDED = frozenset((_MANUFACTURER, _MODEL_NAME))


def is_own(file: DicomFile) -> bool:
    """Whether a header with the elements in NEEDED names Lungline as both manufacturer and model."""
    return file.words(_MANUFACTURER) == file.words(_MODEL_NAME) == MANUFACTURER
