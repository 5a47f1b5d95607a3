# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
import io
from typing import Any

import numpy as np
import pydicom
import pytest

from lungline.deidentification.deidentify import deidentify
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.imaging import dicom
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from tests.support.dicom_files import CAPTURE, EXPLICIT, JPEG_LS, film, write

UPRIGHT = film(bits=8)

# What has to be done to an upright image, so that it lies as the patient orientation says.
ORIENTATIONS = {
    "L\\F": lambda pixels: pixels,
    "R\\F": lambda pixels: pixels[:, ::-1],
    "L\\H": lambda pixels: pixels[::-1],
    "R\\H": lambda pixels: pixels[::-1, ::-1],
    "F\\L": lambda pixels: pixels.T,
    "H\\L": lambda pixels: pixels.T[:, ::-1],
    "F\\R": lambda pixels: pixels.T[::-1],
    "H\\R": lambda pixels: pixels.T[::-1, ::-1],
    "LH\\FP": lambda pixels: pixels,
    "RFP\\H": lambda pixels: pixels[::-1, ::-1],
}
COSINES = {"R": [-1, 0, 0], "L": [1, 0, 0], "H": [0, 0, 1], "F": [0, 0, -1], "A": [0, -1, 0], "P": [0, 1, 0]}


def lying(orientation: str) -> np.ndarray:
    return np.ascontiguousarray(ORIENTATIONS[orientation](UPRIGHT))


class TestOrientation:
    @pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_LS])
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_images_are_turned_upright(self, orientation: str, syntax: str) -> None:
        image = decode(write(lying(orientation), syntax, PatientOrientation=orientation.split("\\")))
        assert np.array_equal(image.pixels, UPRIGHT)
        assert (image.width, image.height) == (96, 72)
        assert bool(image.notes) == (not np.array_equal(lying(orientation), UPRIGHT))
        assert image.not_frontal is None

    @pytest.mark.parametrize("orientation", [name for name in ORIENTATIONS if len(name) == 3])
    def test_direction_cosines_count_without_a_patient_orientation(self, orientation: str) -> None:
        cosines = [*COSINES[orientation[0]], *COSINES[orientation[2]]]
        image = decode(write(lying(orientation), ImageOrientationPatient=cosines))
        assert np.array_equal(image.pixels, UPRIGHT)

    def test_a_patient_orientation_wins_over_direction_cosines(self) -> None:
        image = decode(write(UPRIGHT, PatientOrientation=["L", "F"], ImageOrientationPatient=[-1, 0, 0, 0, 0, 1]))
        assert np.array_equal(image.pixels, UPRIGHT)

    @pytest.mark.parametrize(
        "elements",
        [
            {"PatientOrientation": None},
            {"PatientOrientation": ""},
            {"PatientOrientation": ["L", ""]},
            {"PatientOrientation": ["L", "R"]},
            {"PatientOrientation": ["X", "Y"]},
            {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},  # what some software writes into every image
            {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
            {"FieldOfViewRotation": "180", "FieldOfViewHorizontalFlip": "YES"},  # what has been done already
        ],
    )
    def test_other_headers_turn_nothing(self, elements: dict[str, Any]) -> None:
        elements = {name: value for name, value in elements.items() if value is not None}
        data = write(UPRIGHT, **elements)
        image = decode(data)
        assert np.array_equal(image.pixels, UPRIGHT)
        assert (image.notes, image.not_frontal, dicom.orientation(data)) == ((), None, None)

    def test_colours_are_turned_too(self) -> None:
        colours = np.stack([lying("R\\H")] * 3, axis=2)
        colours[..., 0] //= 2
        upright = np.ascontiguousarray(colours[::-1, ::-1])
        header: dict[str, Any] = {"storage": CAPTURE, "Modality": "OT"}
        turned = decode(write(colours, PatientOrientation=["R", "H"], **header))
        assert np.array_equal(turned.pixels, decode(write(upright, **header)).pixels)

    @pytest.mark.parametrize("row", ["A", "P"])
    def test_a_lateral_view_is_turned_upright_but_never_mirrored(self, row: str) -> None:
        data = write(lying("L\\H"), PatientOrientation=[row, "H"])
        assert np.array_equal(decode(data).pixels, UPRIGHT)
        assert dicom.orientation(data) == (row, "F")

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_the_research_copy_has_the_orientation_that_it_states(self, orientation: str) -> None:
        elements = {"PatientOrientation": orientation.split("\\"), "PixelSpacing": [0.2, 0.1], "PatientID": "7"}
        copy = deidentify(write(lying(orientation), **elements), Pseudonyms(b"secret"), Limits(min_side=8)).data
        header = pydicom.dcmread(io.BytesIO(copy))
        assert list(header.PatientOrientation) == ["L", "F"]
        assert np.abs(header.pixel_array.astype(int) - UPRIGHT).mean() < 30  # text at the margins may be blurred
        turned = orientation[0] in "FH"
        assert list(header.PixelSpacing) == ([0.1, 0.2] if turned else [0.2, 0.1])
        assert decode(copy).notes == decode(write(UPRIGHT, PixelSpacing=header.PixelSpacing)).notes


class TestProportion:
    @pytest.mark.parametrize(
        ("elements", "size"),
        [
            ({"PixelAspectRatio": ["2", "1"]}, (96, 144)),
            ({"PixelAspectRatio": ["1", "2"]}, (192, 72)),
            ({"PixelAspectRatio": ["4", "3"]}, (96, 96)),
            ({"PixelSpacing": [0.3, 0.2]}, (96, 108)),
            ({"ImagerPixelSpacing": [0.1, 0.2]}, (192, 72)),
            ({"NominalScannedPixelSpacing": [0.2, 0.1]}, (96, 144)),
            ({"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": ["2", "1"]}, (96, 72)),
            ({"PixelSpacing": [0.143, 0.143]}, (96, 72)),
            ({"PixelSpacing": [0.1430, 0.1431]}, (96, 72)),
            ({"PixelAspectRatio": ["0", "1"]}, (96, 72)),
            ({"PixelSpacing": [100, 0.1]}, (96, 72)),
            ({"PixelAspectRatio": ["2", "1"], "PatientOrientation": ["L", "H"]}, (96, 144)),
            ({"PixelAspectRatio": ["2", "1"], "PatientOrientation": ["F", "L"]}, (144, 96)),
        ],
    )
    def test_pixels_that_are_not_square(self, elements: dict[str, Any], size: tuple[int, int]) -> None:
        image = decode(write(UPRIGHT, **elements))
        assert (image.width, image.height) == image.pixels.shape[::-1] == size

    def test_the_image_is_stretched_and_not_cut(self) -> None:
        image = decode(write(np.repeat(UPRIGHT, 2, axis=1), PixelAspectRatio=["2", "1"]))
        assert np.abs(image.pixels[::2, ::2].astype(int) - UPRIGHT).mean() < 6

    def test_the_limit_on_pixels_holds(self) -> None:
        image = decode(write(UPRIGHT, PixelAspectRatio=["9", "1"]), Limits(max_pixels=96 * 72, min_side=8))
        assert image.pixels.shape == (72, 11)
