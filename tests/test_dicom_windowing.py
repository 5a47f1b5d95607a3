# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
import io
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from lungline.imaging.decoding import decode
from tests.support.dicom_files import BIG, EXPLICIT, IMPLICIT, film, window, write

WINDOW = {"WindowCenter": "2100", "WindowWidth": "3000"}


class TestGreyLevels:
    def test_monochrome1_is_inverted(self) -> None:
        pixels = film()
        image = decode(
            write(4095 - pixels, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096)
        )
        assert np.abs(image.pixels - window(pixels, 2048, 4096)).max() <= 1
        assert "inverted: white is the lowest value" in image.notes

    @pytest.mark.parametrize(
        "elements",
        [
            {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "3000", "WindowWidth": "5000"},
            {"RescaleSlope": "0.5", "RescaleIntercept": "7", "WindowCenter": "900", "WindowWidth": "1500"},
            {"WindowCenter": ["2100", "10"], "WindowWidth": ["3000", "20"]},
            {"WindowCenter": "2100", "WindowWidth": "3000", "VOILUTFunction": "SIGMOID"},
            {"WindowCenter": "2100", "WindowWidth": "3000", "VOILUTFunction": "LINEAR_EXACT"},
            {"WindowCenter": "2100", "WindowWidth": "1", "VOILUTFunction": "LINEAR"},
        ],
    )
    def test_rescale_and_window_equal_pydicoms(self, elements: dict[str, Any]) -> None:
        data = write(film(), bits=12, **elements)
        assert np.abs(decode(data).pixels - reference(data)).max() <= 1

    @pytest.mark.parametrize("bits", [10, 12, 16])
    @pytest.mark.parametrize("first", [0, 500])
    def test_a_voi_lut_equals_pydicoms(self, bits: int, first: int) -> None:
        table = (np.linspace(0, 1, 3000) ** 2 * ((1 << bits) - 1)).astype(np.uint16)
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [3000, first, bits], table.tobytes()
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
        for syntax in (EXPLICIT, IMPLICIT):
            data = write(film(), syntax, bits=12, VOILUTSequence=[item])
            ours = decode(data)
            assert "window table applied" in ours.notes
            assert np.abs(ours.pixels - reference(data)).max() <= 1

    def test_a_voi_lut_of_eight_bits_may_be_packed(self) -> None:
        table = np.rint(np.linspace(0, 1, 4096) ** 2 * 255)
        levels: list[np.ndarray] = []
        for kind in ("u1", "<u2"):
            item = Dataset()
            item.LUTDescriptor, item.LUTData = [4096, 0, 8], table.astype(kind).tobytes()
            item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
            levels.append(decode(write(film(), bits=12, VOILUTSequence=[item])).pixels)
        assert np.array_equal(levels[0], table[film()])
        assert np.array_equal(levels[0], levels[1])

    def test_a_modality_lut_equals_pydicoms(self) -> None:
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [4096, 0, 16], (4095 - np.arange(4096)).astype(np.uint16).tobytes()
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
        item.ModalityLUTType = "OD"
        data = write(film(), bits=12, ModalityLUTSequence=[item], **WINDOW)
        assert np.abs(decode(data).pixels - reference(data)).max() <= 1

    def test_without_a_window_levels_are_spread_between_the_tails(self) -> None:
        pixels = film()
        pixels[0, :3] = 4095
        pixels[1, :3] = 0
        image = decode(write(pixels // 4 + 1000, bits=12))
        assert (image.pixels.min(), image.pixels.max()) == (0, 255)
        assert image.pixels.std() > 30
        assert "no window: grey levels were spread" in image.notes
        assert "12 bit reduced to 8" in image.notes

    def test_eight_bits_without_a_window_stay_as_they_are(self) -> None:
        pixels = film(bits=8)
        image = decode(write(pixels))
        assert np.array_equal(image.pixels, pixels)
        assert (image.warnings, image.notes) == ((), ())

    def test_a_window_that_shows_nothing_is_ignored(self) -> None:
        image = decode(write(film(), bits=12, WindowCenter="-20000", WindowWidth="10"))
        assert image.pixels.std() > 20
        assert "the window shows nothing and was not used" in image.warnings

    @pytest.mark.parametrize("wrong", ["nan", "1e400", "", "abc"])
    def test_invalid_numbers_are_ignored(self, wrong: str) -> None:
        data = write(
            film(), bits=12, WindowCenter="2100", WindowWidth="3000", RescaleSlope="1.25", RescaleIntercept="0"
        )
        broken = data.replace(b"1.25", wrong.encode().ljust(4)[:4] if len(wrong) < 5 else wrong[:4].encode())
        assert decode(broken).pixels.shape == (72, 96)

    def test_padding_is_black_and_excluded_from_the_spread(self) -> None:
        pixels = film() // 2 + 500
        pixels[10:20, 10:30] = 4095
        image = decode(write(pixels, bits=12, PixelPaddingValue=4095))
        assert image.pixels[10:20, 10:30].max() == 0
        assert image.pixels[30:].max() == 255

    @pytest.mark.parametrize("padding", [63536, 65535, 4095, 4096])
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_margins_of_padding_are_cut_off(self, padding: int, photometric: str) -> None:
        """Whether the value of the padding fits in the bits in use or not."""
        pixels = film() // 2 + 500
        padded = np.pad(pixels, ((3, 5), (20, 7)), constant_values=padding)
        header = {"PixelPaddingValue": padding, "PhotometricInterpretation": photometric}
        image = decode(write(padded, bits=12, **header))
        expected = decode(write(pixels, bits=12, PhotometricInterpretation=photometric)).pixels
        assert np.array_equal(image.pixels, expected)
        assert (image.width, image.height) == (96, 72)
        assert "margins of padding were cut off" in image.notes

    def test_signed_padding_and_a_range_of_it(self) -> None:
        pixels = film(signed=True) // 2
        padded = np.pad(pixels, ((0, 0), (20, 0)), constant_values=-2000)
        padded[:, :10] = -1990
        image = decode(write(padded, bits=12, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1985))
        assert image.width == 96

    def test_an_image_of_nothing_but_padding_is_blank(self) -> None:
        assert decode(write(np.full((64, 64), 7, np.uint16), bits=12, PixelPaddingValue=7)).is_blank

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
    @pytest.mark.parametrize("vr", ["US", "SS"])
    @pytest.mark.parametrize("signed", [True, False])
    @pytest.mark.parametrize("first", [-1024, 0])
    def test_a_voi_lut_may_start_below_zero(self, syntax: str, vr: str, first: int, *, signed: bool) -> None:
        """Whatever the VR, the first input after a rescale to negative values is signed, as DCMTK reads it."""
        pixels = film().astype(np.int16 if signed else np.uint16)
        start, order = first if vr == "SS" else first & 0xFFFF, ">" if syntax == BIG else "<"
        item = voi_lut(4096, start, vr=vr, order=order)
        header = {"RescaleSlope": "1", "RescaleIntercept": str(first), "VOILUTSequence": [item]}
        image = decode(write(pixels, syntax, bits=16 if signed else 12, **header))
        assert image.warnings == ()
        assert np.abs(image.pixels - (pixels / 4095.0) ** 2 * 255).max() <= 1

    @pytest.mark.parametrize(
        ("bits", "largest"), [(16, 4095), (16, 255), (12, 1023), (14, 8191), (8, 4095), (12, 65535)]
    )
    def test_a_voi_lut_is_stretched_to_its_largest_entry(self, bits: int, largest: int) -> None:
        """Whether it is declared wider or narrower than its entries."""
        image = decode(write(film(), bits=12, VOILUTSequence=[voi_lut(4096, 0, bits=bits, largest=largest)]))
        assert np.abs(image.pixels - (film() / 4095.0) ** 2 * 255).max() <= 1

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("window", [{}, WINDOW])
    @pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE", "LIN OD"])
    def test_a_presentation_lut_shape_wins(self, photometric: str, shape: str | None, window: dict[str, str]) -> None:
        header: dict[str, Any] = {"PhotometricInterpretation": photometric, **window}
        header |= {"PresentationLUTShape": shape} if shape else {}
        is_inverted = shape == "INVERSE" if shape in ("IDENTITY", "INVERSE") else photometric == "MONOCHROME1"
        plain, image = decode(write(film(), bits=12, **window)), decode(write(film(), bits=12, **header))
        assert np.array_equal(image.pixels, 255 - plain.pixels if is_inverted else plain.pixels)

    @pytest.mark.parametrize("outliers", [1, 5, 30])
    @pytest.mark.parametrize("value", [0, 65535])
    def test_outliers_do_not_take_the_contrast(self, outliers: int, value: int) -> None:
        pixels = film() // 8 + 30_000
        pixels.reshape(-1)[:outliers] = value
        expected = decode(write(film() // 8 + 30_000, bits=16)).pixels.astype(int)
        image = decode(write(pixels, bits=16))
        assert np.corrcoef(image.pixels.reshape(-1)[outliers:], expected.reshape(-1)[outliers:])[0, 1] > 0.98
        assert image.pixels.std() > 0.75 * expected.std()

    def test_bits_above_those_in_use_are_ignored(self) -> None:
        pixels = film()
        assert np.array_equal(
            decode(write(pixels | 0xF000, bits=12, **WINDOW)).pixels, decode(write(pixels, bits=12, **WINDOW)).pixels
        )

    def test_values_may_lie_in_the_upper_bits(self) -> None:
        pixels = film()
        shifted = decode(write(pixels << 4, bits=12, HighBit=15, **WINDOW))
        assert np.array_equal(shifted.pixels, window(pixels, 2100, 3000))


def reference(data: bytes) -> np.ndarray:
    """The values that pydicom displays, scaled to eight bits."""
    dicom = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(apply_modality_lut(dicom.pixel_array, dicom), dicom).astype(float)
    if "VOILUTSequence" in dicom:
        return shown * (255 / ((1 << dicom.VOILUTSequence[0].LUTDescriptor[2]) - 1))
    slope, intercept = float(dicom.get("RescaleSlope", 1)), float(dicom.get("RescaleIntercept", 0))
    low, high = (0, 65535) if "ModalityLUTSequence" in dicom else (intercept, 4095 * slope + intercept)
    return (shown - low) * (255 / (high - low))


def voi_lut(
    count: int, first: int, *, bits: int = 16, largest: int = 65535, vr: str = "US", order: str = "<"
) -> Dataset:
    """A VOI LUT item whose entries rise with the square of the input."""
    item = Dataset()
    item.LUTDescriptor = [count, first, bits]
    item.LUTData = np.rint(np.linspace(0, 1, count) ** 2 * largest).astype(order + "u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = vr, "OW"
    return item
