"""Read from a DICOM header whether the image can be a frontal chest X-ray.

Codes decide where there are any; descriptions in free text are searched for words. None of it is quoted: free text may
hold personal data.
"""

from typing import NamedTuple

from lungline.imaging import dicom_words
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.dicom_words import fold

_SERIES_TEXTS = (0x0008103E, 0x00181030, 0x00181400)  # series description, protocol name, processing description
_STUDY_TEXTS = (0x00081030, 0x00321060, 0x00400254)  # study, requested procedure, performed procedure step
_STUDY_CODES = (0x00081032, 0x00321064, 0x00400260)
_REQUEST, _REQUEST_TEXTS = 0x00400275, (0x00321060, 0x00400007)  # and the scheduled procedure step
_BODY_PART, _VIEW, _POSITION, _VIEW_CODES = 0x00180015, 0x00185101, 0x00185100, 0x00540220
_REGION_CODES = (0x00082218, 0x00082228)
_SPECIES, _QUALITY_CONTROL = 0x00102201, 0x00280300
_CODE, _SCHEME, _MEANING = 0x00080100, 0x00080102, 0x00080104
NEEDED = frozenset(
    (
        *(*_SERIES_TEXTS, *_STUDY_TEXTS, *_STUDY_CODES, *_REGION_CODES),
        *(_BODY_PART, _VIEW, _POSITION, _VIEW_CODES, _SPECIES, _QUALITY_CONTROL, _REQUEST),
    )
)
_ON_THE_SIDE = {"HFDL", "HFDR", "FFDL", "FFDR"}

LATERAL = "the DICOM header names a lateral view, not a frontal chest X-ray"
OBLIQUE = "the DICOM header names an oblique view, not a frontal chest X-ray"
DECUBITUS = "the DICOM header names a view of a patient who lies on the side, not a frontal chest X-ray"
OTHER_VIEW = "the DICOM header names another view than a frontal chest X-ray"
OTHER_PART = "the DICOM header names another body part than the chest"
ANIMAL = "the DICOM header names an animal, not a human patient"
QUALITY_CONTROL = "the DICOM header names a quality control image, not a patient's X-ray"
UNKNOWN_PART = "the DICOM header names a body part that is not known as the chest"
_VIEWS = (
    (dicom_words.DECUBITUS, DECUBITUS),
    (dicom_words.OBLIQUE, OBLIQUE),
    (dicom_words.LATERAL, LATERAL),
    (dicom_words.OTHER_VIEW, OTHER_VIEW),
)


class View(NamedTuple):
    """`not_frontal` is why the header rules out a frontal chest X-ray, None if it does not."""

    not_frontal: str | None
    warnings: tuple[str, ...] = ()


def read_view(file: DicomFile) -> View:
    """Read body part, view, and kind of patient from a header."""
    series = [fold(file.words(tag)) for tag in _SERIES_TEXTS]
    study = [fold(file.words(tag)) for tag in _STUDY_TEXTS]
    study += [fold(item.words(_MEANING)) for tag in _STUDY_CODES if (item := file.first_item(tag))]
    if request := file.first_item(_REQUEST):
        study += [fold(request.words(tag)) for tag in _REQUEST_TEXTS]
    part = fold(file.words(_BODY_PART))
    part = "" if part in dicom_words.NO_PART else part
    reason = _patient_reason(file) or _part_reason(file, part, series, study) or _view_reason(file, series)
    return View(reason, () if reason or not part or _names_chest(part) else (UNKNOWN_PART,))


def _patient_reason(file: DicomFile) -> str | None:
    species = fold(file.words(_SPECIES))
    if species and "HUMAN" not in species and "HOMO SAPIENS" not in species:
        return ANIMAL
    return QUALITY_CONTROL if file.text(_QUALITY_CONTROL).upper() == "YES" else None


def _part_reason(file: DicomFile, part: str, series: list[str], study: list[str]) -> str | None:
    if not _names_chest(part) and _names_part(part):
        return OTHER_PART
    is_chest = _names_chest(part)
    for item in (item for tag in _REGION_CODES if (item := file.first_item(tag))):
        if _is_chest_region(item):
            is_chest = True
        elif _is_other_region(item):
            return OTHER_PART
    if any(not _names_chest(text) and _names_part(text, free=True) for text in series):
        return OTHER_PART
    # A study may have images of several parts: what the image itself says about its part comes first.
    if is_chest or any(map(_names_chest, series)) or any(map(_names_chest, study)):
        return None
    return OTHER_PART if any(_names_part(text, free=True) for text in study) else None


def _is_chest_region(item: DicomFile) -> bool:
    return item.text(_CODE) in dicom_words.CHEST_CODES or _names_chest(fold(item.words(_MEANING)))


def _is_other_region(item: DicomFile) -> bool:
    """Whether a code names another region; codes of other schemes count by their meaning."""
    is_known_scheme = item.text(_SCHEME) in dicom_words.CODING_SCHEMES and bool(item.text(_CODE))
    return is_known_scheme or _names_part(fold(item.words(_MEANING)))


def _view_reason(file: DicomFile, series: list[str]) -> str | None:
    if reason := _named_view(fold(file.words(_VIEW))):
        return reason
    item = file.first_item(_VIEW_CODES)
    if item and item.text(_CODE) not in dicom_words.FRONTAL_CODES:
        if reason := _named_view(fold(item.words(_MEANING))):
            return reason
        if item.text(_CODE) and item.text(_SCHEME) in dicom_words.CODING_SCHEMES:
            return OTHER_VIEW
    if file.text(_POSITION).upper() in _ON_THE_SIDE:
        return DECUBITUS
    # A text that names a frontal view as well describes all images of a series.
    alone = (text for text in series if not _has(text, dicom_words.FRONTAL))
    return next((reason for text in alone if (reason := _named_view(text))), None)


def _named_view(text: str) -> str | None:
    return next((reason for words, reason in _VIEWS if _has(text, words)), None)


def _has(text: str, words: frozenset[str]) -> bool:
    """Whether the text has one of the words; those of scripts without spaces may be anywhere in it."""
    return not words.isdisjoint(text.split()) or any(not word.isascii() and word in text for word in words)


def _names_chest(text: str) -> bool:
    text = dicom_words.SPINE.sub(" ", text)
    words = text.split()
    return any(word.startswith(dicom_words.CHEST) or word in dicom_words.CHEST_WORDS for word in words) or any(
        name in text for name in dicom_words.CHEST_ANYWHERE
    )


def _names_part(text: str, *, free: bool = False) -> bool:
    """Whether the text names a body part; in `free` text, words that have another meaning do not count."""
    words = set(text.split())
    whole = dicom_words.PART_WORDS - dicom_words.AMBIGUOUS if free else dicom_words.PART_WORDS
    return (
        bool(dicom_words.SPINE.search(text))
        or not whole.isdisjoint(words)
        or any(word.startswith(dicom_words.PARTS) for word in words)
        or any(name in text for name in dicom_words.PARTS_ANYWHERE)
    )
