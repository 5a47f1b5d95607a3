"""Results as DICOM, for X-rays that came as DICOM: a Secondary Capture of the heatmap in the patient's own study.

It names the patient, so it is stored in the patients bucket, as `captures/ab/abcdef.../3.dcm` for the result record
`results/ab/abcdef.../3.json`. Its UIDs are derived from the record's id, so writing it again gives the same object. The
result is written below the image, not on it.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError, ImageRefused
from lungline.imaging.dicom import orientation
from lungline.imaging.dicom_origin import MANUFACTURER
from lungline.results.records import PREFIX, ResultRecord
from worklist.exports import source_header

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset
    from pydicom.uid import UID

CAPTURES = "captures/"
DISCLAIMER = "Research use only. Not a medical device."
SERIES = 9317  # far above the numbers that scanners use
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
_LINE = 15


def capture_key(record: ResultRecord) -> str:
    """Where the Secondary Capture of a result lies in the patients bucket."""
    return CAPTURES + record.key.removeprefix(PREFIX).removesuffix(".json") + ".dcm"


def capture(original: bytes, overlaid: bytes, record: ResultRecord) -> bytes:
    """The Secondary Capture as a DICOM file; `original` is the upload, `overlaid` the heatmap's PNG.

    Malformed values of the upload are left out. Raises DataError when it is no DICOM or belongs to no study.
    """
    quiet_dicom(__name__)
    source = source_header.read_source(original)
    study = source_header.study_uid(source)
    if study is None:
        raise DataError("The upload does not say which study it belongs to (StudyInstanceUID).")
    image = _image(source, study, record)
    _set_pixels(image, _pixels(overlaid, record))
    image.PatientOrientation = list(_orientation(original) or ())
    out = io.BytesIO()
    image.save_as(out, enforce_file_format=True)
    return out.getvalue()


def uids(record: ResultRecord) -> tuple["UID", "UID"]:
    """The UIDs of the capture's series and of the capture."""
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[record.id, "series"]), generate_uid(entropy_srcs=[record.id, "image"])


def _image(source: "Dataset", study: str, record: ResultRecord) -> "FileDataset":
    """A Secondary Capture of the upload's study, without pixels."""
    from pydicom import Dataset, FileDataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    series, uid = uids(record)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in source_header.valid_values(source).items():
        setattr(image, keyword, value)
    done = record.times.done.astimezone()  # local, as the times of the study are
    values: dict[str, object] = {
        "SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": uid, "StudyInstanceUID": study,
        "SeriesInstanceUID": series, "SeriesNumber": SERIES,
        "InstanceNumber": 1, "Modality": "OT", "ConversionType": "WSD", "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": MANUFACTURER, "SoftwareVersions": record.model.version[:64],
        "SeriesDescription": f"{MANUFACTURER} {record.task} risk (research)",
        "DerivationDescription": f"{_sentence(record)} {DISCLAIMER}", "ImageType": ["DERIVED", "SECONDARY"],
        "BurnedInAnnotation": "YES", "ContentDate": f"{done:%Y%m%d}", "ContentTime": f"{done:%H%M%S}",
        "InstanceCreationDate": f"{done:%Y%m%d}", "InstanceCreationTime": f"{done:%H%M%S}",
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(image, keyword, value)
    source_uids = [source_header.valid_uid(source, keyword) for keyword in ("SOPClassUID", "SOPInstanceUID")]
    if all(source_uids):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source_uids
        image.SourceImageSequence = [reference]
    return image


def _set_pixels(image: "FileDataset", pixels: np.ndarray) -> None:
    """Set RGB pixels, uint8 (H, W, 3)."""
    image.Rows, image.Columns, image.SamplesPerPixel = *pixels.shape[:2], 3
    image.PhotometricInterpretation, image.PlanarConfiguration = "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    data = pixels.tobytes()
    image.PixelData = data + b"\0" * (len(data) % 2)


def _orientation(original: bytes) -> tuple[str, str] | None:
    """The orientation of the pixels as they are decoded; None, and so not claimed, when it is not known."""
    try:
        return orientation(original)
    except ImageRefused:
        return None


def _pixels(overlaid: bytes, record: ResultRecord) -> np.ndarray:
    """The heatmap with two lines of text below it."""
    heatmap = Image.open(io.BytesIO(overlaid), formats=["PNG"]).convert("RGB")
    sheet = Image.new("RGB", (max(heatmap.width, 260), heatmap.height + 2 * _LINE + 4))
    sheet.paste(heatmap)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate((_sentence(record), DISCLAIMER)):
        draw.text((4, heatmap.height + 2 + line * _LINE), text, fill=(230, 230, 230))
    return np.asarray(sheet)


def _sentence(record: ResultRecord) -> str:
    risk = "" if record.probability is None else f", risk {record.probability:.0%}"
    labels = ", ".join(record.present) or record.label or record.outcome
    return f"{labels}{risk}, model {record.model.version[:20]}."
