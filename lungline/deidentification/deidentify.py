"""Remove everything that identifies the patient from an image: metadata, text at the margins, and its name.

DICOM files pass two filters. The first is an allow-list: only elements that research needs, and only values that are
numbers or terms of the standard. The second is the Basic Application Level Confidentiality Profile of the library
dicom-anonymizer. All other images keep only their grey levels.

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
from lungline.imaging.decoding import decode, dicom_memory
from lungline.imaging.dicom_header import read_header
from lungline.imaging.image import Limits
from lungline.imaging.png import write_png

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LIBRARIES = ("pydicom", "dicomanonymizer")


def quiet_dicom(caller: str) -> None:
    """Silence the DICOM libraries in this process: their messages quote values, which may be names.

    `caller` is the calling module's `__name__`, because Python attributes a library's warnings to its caller.
    May be called any number of times.
    """
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in (*_LIBRARIES, caller):
        warnings.filterwarnings("ignore", module=rf"{re.escape(name)}\b")


# Memory for each pixel while text in a DICOM is blurred: true values, and the values before.
_TRUE_VALUE_BYTES = 8
_METHOD = "Lungline: Basic Application Confidentiality Profile, allow-list, margin text blurred"
_BASIC_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS = ("113101", "DCM", "Clean Pixel Data Option")

_NUMBERS = {
    *("Rows", "Columns", "SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"),
    *(
        "PixelSpacing",
        "ImagerPixelSpacing",
        "PixelAspectRatio",
        "PixelAspectRatio",
        "KVP",
        "ExposureInuAs",
        "DistanceSourceToDetector",
    ),
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
# Elements that every image must have, even empty; the profile empties or replaces their values.
_IDENTITY = {
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A de-identified image: its file, and the pseudonym of its patient if the original had a PatientID."""

    data: bytes = field(repr=False)
    suffix: str
    content_type: str
    patient: str | None
    painted_over: float
    """Share of the image that was painted over, 0 to 1."""


def deidentify(data: bytes, pseudonyms: Pseudonyms, limits: Limits = Limits()) -> Deidentified:  # noqa: B008 - frozen
    """The image without anything that identifies the patient.

    A DICOM file stays DICOM, uncompressed and with its first frame only; every other image becomes a grey PNG.
    Raises ImageRefused as `decode` does, and LunglineError when the profile cannot be applied.
    """
    with limits.work():
        if dicom.is_dicom(data):
            return _dicom(data, pseudonyms, limits)
        pixels = decode(data, limits).pixels
        mask = find_text(pixels)
        png = write_png(np.ascontiguousarray(paint_over(pixels, mask)))
        return Deidentified(png, ".png", "image/png", None, float(mask.mean()))


def _dicom(data: bytes, pseudonyms: Pseudonyms, limits: Limits) -> Deidentified:
    raw = dicom.read_raw(data, limits.for_file(len(data), dicom_memory))
    limits.take(_TRUE_VALUE_BYTES * raw.patterns.size)
    if raw.patterns.ndim == 3:
        colours = raw.patterns.astype(np.uint8)
        mask = find_text(colours.max(axis=2))
        pixels = paint_over(colours, mask)
    else:
        mask = find_text(dicom.grey_of(raw).pixels)
        # Blurred as true values, because the bit patterns of signed values are not in order. Unused bits, in which
        # overlays may be stored, are cleared.
        values = paint_over(dicom.values_of(raw), mask)
        values &= (1 << raw.stored.bits) - 1
        pixels = values.astype("<u1" if raw.stored.allocated == 8 else "<u2")
        del values
    try:
        elements, patient = _profile(_allowed(data), pseudonyms)
        file = _written(elements, raw, np.ascontiguousarray(pixels))
    except (LunglineError, MemoryError):
        raise
    except Exception as exc:  # noqa: BLE001
        # Messages of the libraries quote values, which may be names: only the type of the error is safe.
        raise LunglineError(f"The DICOM could not be de-identified ({type(exc).__name__}).") from None
    return Deidentified(file, ".dcm", "application/dicom", patient, float(mask.mean()))


def _allowed(data: bytes) -> "Dataset":
    """The elements of a file that pass the allow-list."""
    quiet_dicom(__name__)
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset
    from pydicom.filereader import read_dataset

    header = read_header(data)
    allowed = {tag_for_keyword(name): name for name in (*_NUMBERS, *_WORDS, *_IDENTITY)}
    everything = read_dataset(
        io.BytesIO(header.data), is_implicit_VR=not header.explicit, is_little_endian=header.order == "<"
    )
    elements = Dataset()
    for tag, name in allowed.items():
        if tag is None or tag not in everything:
            continue
        value = everything[tag].value
        if name in _NUMBERS:
            value = _numbers(value)
        elif name in _WORDS:
            value = value if value in _WORDS[name] else None
        if value is not None:
            setattr(elements, name, value)
    return elements


def _numbers(value: Any) -> Any:
    """The value if it consists of numbers only, each in its shortest form; else None."""
    parts: list[Any] = list(value) if hasattr(value, "append") else [value]
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        return None
    kept = [int(number) if number.is_integer() else float(f"{number:.6g}") for number in numbers if np.isfinite(number)]
    return None if not kept or len(kept) < len(parts) else kept[0] if len(kept) == 1 else kept


def _profile(elements: "Dataset", pseudonyms: Pseudonyms) -> tuple["Dataset", str | None]:
    """The elements after the confidentiality profile, and the patient's pseudonym."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions_2024b
    from pydicom.dataset import Dataset

    name = str(elements.get("PatientID", "") or "").strip()
    patient = pseudonyms.of("patient", name) if name else None
    uids = {
        keyword: pseudonyms.uid(str(elements.get(keyword) or secrets.token_hex(16)))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }
    for keyword in _IDENTITY:
        setattr(elements, keyword, "")
    # The library keeps every unique identifier that it replaces in memory: it never sees the real ones.
    for keyword, value in uids.items():
        setattr(elements, keyword, value)
    anonymize_dataset(elements, _kept(uids), delete_private_tags=True, base_rules_gen=initialize_actions_2024b)
    elements.PatientID = patient or ""
    elements.PatientName = elements.StudyDate = elements.StudyTime = elements.PatientBirthDate = ""
    elements.PatientIdentityRemoved, elements.DeidentificationMethod = "YES", _METHOD[:64]
    elements.LongitudinalTemporalInformationModified = "REMOVED"
    codes: list[Dataset] = []
    for value, scheme, meaning in (_BASIC_PROFILE, _CLEAN_PIXELS):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
        codes.append(code)
    elements.DeidentificationMethodCodeSequence = codes
    return elements, patient


def _kept(uids: dict[str, str]) -> dict[tuple[int, int], Any]:
    """Rules for elements that already have their pseudonym."""
    from dicomanonymizer.simpledicomanonymizer import keep
    from pydicom.datadict import tag_for_keyword

    tags = [tag for keyword in uids if (tag := tag_for_keyword(keyword)) is not None]
    return {(tag >> 16, tag & 0xFFFF): keep for tag in tags}


def _turn_header(elements: "Dataset", raw: dicom.Raw) -> None:
    """Make the header fit pixels that were turned, and whose padding has got a value that fits in the bits in use."""
    if raw.turn.orientation:
        elements.PatientOrientation = list(raw.turn.orientation)
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        if raw.turn.transpose and name in elements:
            setattr(elements, name, list(elements[name].value)[::-1])
    if dicom.has_wide_padding(raw) and "PixelPaddingValue" in elements:
        del elements.PixelPaddingValue


def _written(elements: "Dataset", raw: dicom.Raw, pixels: np.ndarray[Any, Any]) -> bytes:
    """A DICOM file of these elements and pixels, in explicit VR little endian."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    grey = pixels.ndim == 2
    elements.Rows, elements.Columns = pixels.shape[:2]
    elements.SamplesPerPixel = 1 if grey else 3
    elements.PhotometricInterpretation = raw.photometric if grey else "RGB"
    elements.BitsAllocated = raw.stored.allocated if grey else 8
    elements.BitsStored = raw.stored.bits if grey else 8
    elements.HighBit, elements.PixelRepresentation = elements.BitsStored - 1, int(raw.stored.signed and grey)
    if not grey:
        elements.PlanarConfiguration = 0
    _turn_header(elements, raw)
    storage = UID(dicom.storage_class(raw) or SecondaryCaptureImageStorage)
    elements.SOPClassUID = storage
    body = pixels.tobytes()
    elements.PixelData = body + b"\0" * (len(body) % 2)
    elements["PixelData"].VR = "OB" if elements.BitsAllocated == 8 else "OW"
    elements.file_meta = FileMetaDataset()
    elements.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    elements.file_meta.MediaStorageSOPClassUID = storage
    elements.file_meta.MediaStorageSOPInstanceUID = elements.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, elements, enforce_file_format=True)
    return buffer.getvalue()
