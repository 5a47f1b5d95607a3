# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
import numpy as np
import pytest
from PIL import Image

from lungline.imaging import dicom
from tests.support.dicom_files import CAPTURE, EXPLICIT, JPEG_2000, JPEG_LS, RLE, write
from tests.support.image_files import ANY_SIZE
from tests.support.jpeg_frames import PHOTOMETRICS, Stream, colours, dicom_of, streams


def rgb(data: bytes) -> np.ndarray:
    return dicom.read(data, ANY_SIZE.check_size).pixels.astype(int)


@pytest.mark.parametrize("photometric", PHOTOMETRICS)
@pytest.mark.parametrize("stream", list(streams()), ids=lambda stream: "-".join(map(str, stream[1:])))
def test_a_jpeg_frame_has_its_true_colours(stream: Stream, photometric: str) -> None:
    """Whatever its markers, its component ids and the header say."""
    assert np.abs(rgb(dicom_of(stream.data, photometric)) - colours()).mean() < 4


@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_LS, JPEG_2000, RLE])
def test_luma_and_chroma_in_other_transfer_syntaxes(syntax: str) -> None:
    stored = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    data = write(stored, syntax, storage=CAPTURE, Modality="OT", PhotometricInterpretation="YBR_FULL")
    assert np.abs(rgb(data) - colours()).mean() < 2


def test_uncompressed_colours_may_be_subsampled() -> None:
    stored = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    pairs = np.concatenate([stored[:, ::2, :1], stored[:, 1::2, :1], stored[:, ::2, 1:]], axis=2)
    data = write(stored, storage=CAPTURE, Modality="OT", PhotometricInterpretation="YBR_FULL_422")
    body = pairs.tobytes()
    data = data[: -stored.nbytes - 4] + len(body).to_bytes(4, "little") + body
    assert np.abs(rgb(data) - colours()).mean() < 3
