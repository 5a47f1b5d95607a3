"""Results as DICOM, for X-rays that came as DICOM: a Secondary Capture of the heatmap in the patient's own study.

It is stored beside the result record, as `results/ab/abcdef.../3.dcm`. Its UIDs are derived from the record's id, so
writing it again gives the same object. The result is written below the image, not on it.
"""

import io

import numpy as np
from PIL import Image, ImageDraw

from lungline.deidentification.deidentify import quiet_dicom
from lungline.errors import DataError
from lungline.results.records import ResultRecord

MANUFACTURER = "Lungline"
DISCLAIMER = "Research use only. Not a medical device."
SERIES = 9317  # far above the numbers that scanners use
_LINE = 15


def capture_key(record: ResultRecord) -> str:
    """Where the Secondary Capture of a result lies in the results bucket."""
    return record.key.removesuffix(".json") + ".dcm"


def capture(original: bytes, overlaid: bytes, record: ResultRecord) -> bytes:
    """The Secondary Capture as a DICOM file; `original` is the upload, `overlaid` the heatmap's PNG.

    Raises DataError when the upload does not tell study and patient as DICOM wants it.
    """
    from highdicom.sc import SCImage
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    quiet_dicom(__name__)
    try:
        source = dcmread(io.BytesIO(original), stop_before_pixels=True)
        image = SCImage.from_ref_dataset(
            source,
            _pixels(overlaid, record),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=generate_uid(entropy_srcs=[record.id, "series"]),
            series_number=SERIES,
            sop_instance_uid=generate_uid(entropy_srcs=[record.id, "image"]),
            instance_number=1,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "F"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    except (InvalidDicomError, AttributeError, TypeError, ValueError, OSError) as exc:
        # Without the library's message, which may quote the patient's data.
        raise DataError(f"The upload lacks what a DICOM result needs ({type(exc).__name__}).") from None
    image.SeriesDescription = "Lungline pneumonia risk (research)"
    image.DerivationDescription = f"{_sentence(record)} {DISCLAIMER}"
    image.BurnedInAnnotation = "YES"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.SoftwareVersions = record.model.version[:64]
    out = io.BytesIO()
    image.save_as(out)
    return out.getvalue()


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
    return f"{record.label or record.outcome}{risk}, model {record.model.version[:20]}."
