"""Images without whatever tells who was X-rayed: no metadata, no text at the margins, no key.

DICOM files pass two walls. Only elements that research needs get in at all, and their values only when they are
numbers or words of the standard. What is left goes through the Basic Application Level Confidentiality Profile, as the
library dicom-anonymizer has it. All other images keep nothing but their grey levels.

Source: DICOM PS3.15 annex E.
"""

# pydicom and dicom-anonymizer have partial types or none; they stay behind this module's own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import io
import logging
import re
import secrets
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lungline.deidentification.burned_in_text import find_text, paint_over
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import LunglineError
from lungline.imaging import dicom
from lungline.imaging.decoding import decode
from lungline.imaging.dicom_header import read_header
from lungline.imaging.image import Limits
from lungline.imaging.png import write_png

_LIBRARIES = ("pydicom", "highdicom", "dicomanonymizer")
# Warnings are laid at the door of whoever called the library.
_CALLERS = ("lungline.deidentification", "worklist.exports.secondary_capture")


def quiet_dicom() -> None:
    """Silence them in this process; may be called any number of times."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in (*_LIBRARIES, *_CALLERS):
        warnings.filterwarnings("ignore", module=rf"{re.escape(name)}\b")


if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_METHOD = "Lungline: Basic Application Confidentiality Profile, allow-list, margin text blurred"
_BASIC_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS = ("113101", "DCM", "Clean Pixel Data Option")

_NUMBERS = {
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"),
    *("PixelSpacing", "ImagerPixelSpacing", "KVP", "ExposureInuAs", "DistanceSourceToDetector"),
    *("PixelIntensityRelationshipSign",),
}
_WORDS = {
    "Modality": {"CR", "DX", "RG", "OT", "SC", "XC", "HC"},
    "PhotometricInterpretation": {"MONOCHROME1", "MONOCHROME2"},
    "BodyPartExamined": {"CHEST", "THORAX", "LUNG", "RIB"},
    "ViewPosition": {"AP", "PA", "LL", "RL"},
    "VOILUTFunction": {"LINEAR", "LINEAR_EXACT", "SIGMOID"},
    "PresentationLUTShape": {"IDENTITY", "INVERSE"},
    "PresentationIntentType": {"FOR PRESENTATION", "FOR PROCESSING"},
    "PixelIntensityRelationship": {"LIN", "LOG"},
    "LossyImageCompression": {"00", "01"},
    "ConversionType": {"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"},
}
# What every image must have even when it is empty; the profile empties them or puts something else in their place.
_IDENTITY = {
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


@dataclass(frozen=True, slots=True)
class Deidentified:
    """An image that may leave: its file, what to call its form, and its patient's pseudonym where one is known."""

    data: bytes = field(repr=False)
    suffix: str
    content_type: str
    patient: str | None
    hidden: float
    """Share of the picture that was painted over."""


def deidentify(data: bytes, pseudonyms: Pseudonyms, limits: Limits = Limits()) -> Deidentified:  # noqa: B008 - frozen
    """The image without whatever tells who was X-rayed.

    DICOM stays DICOM, uncompressed, its first frame only; everything else becomes a grey PNG. Raises ImageRefused as
    `decode` does, and LunglineError when the profile cannot be applied.
    """
    if dicom.is_dicom(data):
        return _dicom(data, pseudonyms, limits)
    pixels = decode(data, limits).pixels
    mask = find_text(pixels)
    png = write_png(np.ascontiguousarray(paint_over(pixels, mask)).astype(np.uint8))
    return Deidentified(png, ".png", "image/png", None, float(mask.mean()))


def _dicom(data: bytes, pseudonyms: Pseudonyms, limits: Limits) -> Deidentified:
    raw = dicom.read_raw(data, limits.for_file(len(data)))
    if raw.patterns.ndim == 3:
        colours = dicom.colours(raw)
        mask = find_text(colours.max(axis=2))
        pixels = paint_over(colours, mask)
    else:
        mask = find_text(dicom.grey_of(raw)[0])
        # In true values, so that a blur of signed ones is right; what lies in unused bits, such as overlays, is lost.
        values = raw.stored.domain().astype(np.int32)[raw.patterns]
        used = paint_over(values, mask) & ((1 << raw.stored.bits) - 1)
        pixels = used.astype("<u1" if raw.stored.allocated == 8 else "<u2")
    try:
        found, patient = _profile(_allowed(data), pseudonyms)
        file = _written(found, raw, np.ascontiguousarray(pixels))
    except (LunglineError, MemoryError):
        raise
    except Exception as exc:  # noqa: BLE001
        # The messages of the libraries quote values, which may be names: only the kind of the error is told.
        raise LunglineError(f"The DICOM could not be de-identified ({type(exc).__name__}).") from None
    return Deidentified(file, ".dcm", "application/dicom", patient, float(mask.mean()))


def _allowed(data: bytes) -> "Dataset":
    """The elements of a file that may pass the first wall."""
    quiet_dicom()
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_dataset

    header = read_header(data)
    known = {tag_for_keyword(name): name for name in (*_NUMBERS, *_WORDS, *_IDENTITY)}
    everything = read_dataset(
        io.BytesIO(header.data), is_implicit_VR=not header.explicit, is_little_endian=header.order == "<"
    )
    found = Dataset()
    for tag, name in known.items():
        if tag is None or tag not in everything:
            continue
        value = everything[tag].value
        if name in _NUMBERS:
            value = _numbers(value)
        elif name in _WORDS:
            value = value if value in _WORDS[name] else None
        if value is not None:
            setattr(found, name, value)
    return found


def _numbers(value: Any) -> Any:
    """The value when all of it is numbers, in their shortest form; else None."""
    parts: list[Any] = list(value) if hasattr(value, "append") else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        return None
    kept = [int(number) if number.is_integer() else float(f"{number:.6g}") for number in numbers if np.isfinite(number)]
    return None if not kept or len(kept) < len(parts) else kept[0] if len(kept) == 1 else kept


def _profile(found: "Dataset", pseudonyms: Pseudonyms) -> tuple["Dataset", str | None]:
    """The data set after the second wall, and its patient's pseudonym."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions_2024b
    from pydicom.dataset import Dataset

    name = str(found.get("PatientID", "") or "").strip()
    patient = pseudonyms.of("patient", name) if name else None
    uids = {
        keyword: pseudonyms.uid(str(found.get(keyword) or secrets.token_hex(16)))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }
    for keyword in _IDENTITY:
        setattr(found, keyword, "")
    # The library remembers every unique identifier that it replaces: it never sees the real ones.
    for keyword, value in uids.items():
        setattr(found, keyword, value)
    anonymize_dataset(found, _kept(uids), delete_private_tags=True, base_rules_gen=initialize_actions_2024b)
    found.PatientID = patient or ""
    found.PatientName = found.StudyDate = found.StudyTime = found.PatientBirthDate = ""
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", _METHOD[:64]
    found.LongitudinalTemporalInformationModified = "REMOVED"
    codes: list[Dataset] = []
    for value, scheme, meaning in (_BASIC_PROFILE, _CLEAN_PIXELS):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
        codes.append(code)
    found.DeidentificationMethodCodeSequence = codes
    return found, patient


def _kept(uids: dict[str, str]) -> dict[tuple[int, int], Any]:
    """Rules for elements that have their pseudonym already."""
    from dicomanonymizer.simpledicomanonymizer import keep
    from pydicom.datadict import tag_for_keyword

    tags = [tag for keyword in uids if (tag := tag_for_keyword(keyword)) is not None]
    return {(tag >> 16, tag & 0xFFFF): keep for tag in tags}


def _written(found: "Dataset", raw: dicom.Raw, pixels: np.ndarray[Any, Any]) -> bytes:
    """A DICOM file of these elements and pixels, explicit and little endian."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    grey = pixels.ndim == 2
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 1 if grey else 3
    found.PhotometricInterpretation = raw.photometric if grey else "RGB"
    found.BitsAllocated = raw.stored.allocated if grey else 8
    found.BitsStored = raw.stored.bits if grey else 8
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(raw.stored.signed and grey)
    if not grey:
        found.PlanarConfiguration = 0
    storage = UID(dicom.storage_class(raw) or SecondaryCaptureImageStorage)
    found.SOPClassUID = storage
    body = pixels.tobytes()
    found.PixelData = body + b"\0" * (len(body) % 2)
    found["PixelData"].VR = "OB" if found.BitsAllocated == 8 else "OW"
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = storage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, found, enforce_file_format=True)
    return buffer.getvalue()
