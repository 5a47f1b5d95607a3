"""Patient and study of a DICOM upload, for a file of the same study: valid values are taken over, others left out.

Headers of real scanners hold dates with dots, names in an undeclared UTF-8, accession numbers that are too long. None
of that keeps a result from being made, and none of it is copied: values are decoded with the declared character set
and checked against their VR.
"""

import io
import re
import struct
from collections.abc import Callable
from datetime import date
from typing import Any

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import UID, generate_uid

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError, ImageRefused
from lungline.imaging.dicom_header import read_file, read_header

UNREADABLE = (
    *(AttributeError, TypeError, ValueError, LookupError, ArithmeticError, NotImplementedError),
    *(OSError, EOFError, struct.error),
)
"""What pydicom raises for files that no scanner should have written."""

# Empty where the upload has no valid value (type 2 of the standard), except for these, which may be missing (type 3).
COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDescription",
)  # fmt: skip
_OPTIONAL = {"IssuerOfPatientID", "PatientAge", "StudyDescription"}
_UID = re.compile(r"[0-9.]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")


def read_source(original: bytes) -> Dataset:
    """The elements of a DICOM file before its pixels, without the file meta group. Raises DataError.

    Elements, nesting and deflated bytes are bounded before pydicom sees them: it inflates a whole file, and a bomb may
    lie behind honest pixels.
    """
    quiet_dicom(__name__)
    try:
        read_file(original, frozenset())
        header = read_header(original)
        return read_dataset(
            io.BytesIO(header.data), is_implicit_VR=not header.explicit, is_little_endian=header.order == "<"
        )
    except (ImageRefused, *UNREADABLE) as exc:
        # Without the library's message, which may quote the patient's data.
        raise DataError(f"The header of the upload cannot be read ({type(exc).__name__}).") from None


def valid_values(source: Dataset) -> dict[str, str]:
    """The valid values of patient and study by keyword; "" where there is none."""
    values = {keyword: _valid(source, keyword) for keyword in COPIED}
    return {keyword: value for keyword, value in values.items() if value or keyword not in _OPTIONAL}


def study_uid(source: Dataset) -> str | None:
    """The study's UID; one derived from it when it is malformed, and None when there is none."""
    text = _bytes(source, "StudyInstanceUID").decode("latin-1").strip("\0 ")
    if not text:
        return None
    # Archives compare UIDs as text, so one with a leading zero still joins its study.
    return text if _UID.fullmatch(text) else generate_uid(entropy_srcs=[text, "study"])


def valid_uid(source: Dataset, keyword: str) -> str | None:
    """A UID that the standard allows; None otherwise."""
    text = _bytes(source, keyword).decode("latin-1").strip("\0 ")
    return text if text and UID(text, validation_mode=0).is_valid else None


def valid_count(source: Dataset, keyword: str) -> int:
    """A number above 0, such as of rows; 0 when it is missing or malformed."""
    try:
        value: Any = source.get(keyword)
        number = int(value or 0)
    except UNREADABLE:
        return 0
    return max(number, 0)


def _valid(source: Dataset, keyword: str) -> str:
    text = _text(source, keyword)
    check = _CHECKS.get(keyword) or _CHECKS.get(dictionary_VR(keyword))
    if not text or check is None:
        return ""
    return check(text)


def _at_most(length: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= length else ""


def _valid_date(text: str) -> str:
    """YYYYMMDD, also from the older YYYY.MM.DD."""
    match = re.fullmatch(r"(\d{4})([.-]?)(\d{2})\2(\d{2})", text)
    try:
        return f"{date(*(int(match[group]) for group in (1, 3, 4))):%Y%m%d}" if match else ""
    except ValueError:
        return ""


def _valid_time(text: str) -> str:
    """HHMMSS.FFFFFF in full or in part, also from the older HH:MM:SS."""
    text = text if ":" not in text else text.replace(":", "") if re.fullmatch(r"\d\d:\d\d(:\d\d.*)?", text) else ""
    match = re.fullmatch(r"([01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?", text)
    return text if match else ""


def _valid_name(text: str) -> str:
    groups = text.split("=")
    is_valid = len(groups) <= 3 and all(len(group) <= 64 and group.count("^") <= 4 for group in groups)
    return text if is_valid else ""


def _valid_sex(text: str) -> str:
    return text.upper() if text.upper() in ("M", "F", "O") else ""


def _valid_age(text: str) -> str:
    return text if re.fullmatch(r"\d{3}[DWMY]", text) else ""


# By keyword, else by VR.
_CHECKS: dict[str, Callable[[str], str]] = {
    "PatientSex": _valid_sex, "DA": _valid_date, "TM": _valid_time, "PN": _valid_name, "AS": _valid_age,
    "SH": _at_most(16), "LO": _at_most(64),
}  # fmt: skip


def _text(source: Dataset, keyword: str) -> str | None:
    """The first value as text; None when it cannot be decoded for certain."""
    data = _bytes(source, keyword)
    is_plain = data.isascii() and b"\x1b" not in data
    text = data.decode("ascii") if is_plain else _decoded(data, _declared(source))
    if text is None:
        return None
    text = text.split("\\")[0].strip(" \0")
    return None if _CONTROL.search(text) else text


def _decoded(data: bytes, declared: list[str]) -> str | None:
    try:
        if not declared or not all(name in python_encoding for name in declared) or declared == ["ISO_IR 6"]:
            return data.decode("utf-8")  # strict: other text is hardly ever valid UTF-8 by chance
        return decode_bytes(data, convert_encodings(declared), {0x5C, 0x3D, 0x5E, 0x0D, 0x0A, 0x09, 0x0C})
    except (UnicodeError, LookupError, ValueError):
        return None


def _declared(source: Dataset) -> list[str]:
    data = _bytes(source, "SpecificCharacterSet").decode("latin-1")
    names = [name.strip(" \0") for name in data.split("\\")]
    return names if any(names) else []


def _bytes(source: Dataset, keyword: str) -> bytes:
    """The bytes of a value as they are in the file."""
    element: Any = source.get_item(tag_for_keyword(keyword) or 0)
    if isinstance(element, RawDataElement):
        return element.value or b""
    value = None if element is None else element.value
    if value is None or value == "":
        return b""
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join(map(str, parts)).encode("utf-8", "surrogateescape")
