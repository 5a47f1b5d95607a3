# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from lungline.datasets.opening import open_dataset
from lungline.datasets.prepared import Prepared, prepare
from lungline.errors import ImageRefused
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.imaging.preparation import Preparation
from lungline.settings import Settings
from tests.support import dicom_files
from tests.support.cpu_cost import Cost, costs_of
from tests.support.dicom_files import (
    BASELINE,
    BIG,
    CAPTURE,
    CR,
    CT,
    DEFLATED,
    DX,
    EXACT,
    EXPLICIT,
    EXTENDED,
    IMPLICIT,
    JPEG_2000,
    JPEG_LS,
    LOSSY,
    RLE,
    film,
    write,
)

WINDOW = {"WindowCenter": "2100", "WindowWidth": "3000"}
SMALL = Limits(min_side=8)


def reason(data: bytes, limits: Limits = SMALL) -> str:
    with pytest.raises(ImageRefused) as refused:
        decode(data, limits)
    assert str(refused.value).endswith(".")
    return refused.value.reason


def window(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.rint(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)


class TestTransferSyntaxes:
    @pytest.mark.parametrize("syntax", EXACT)
    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_every_lossless_syntax_gives_the_same_grey_levels(self, syntax: str, bits: int) -> None:
        pixels = film(bits=bits)
        centre, width = 1 << (bits - 1), 1 << bits
        image = decode(write(pixels, syntax, bits=bits, WindowCenter=centre, WindowWidth=width))
        assert (image.format, image.width, image.height) == ("dicom", 96, 72)
        assert np.array_equal(image.pixels, window(pixels, centre, width))

    @pytest.mark.parametrize("syntax", [*(syntax for syntax in EXACT if syntax != JPEG_LS)])
    def test_lossless_syntaxes_with_signed_values(self, syntax: str) -> None:
        pixels = film(signed=True)
        image = decode(write(pixels, syntax, bits=12, WindowCenter=0, WindowWidth=4096))
        assert np.array_equal(image.pixels, window(pixels, 0, 4096))

    @pytest.mark.parametrize("syntax", LOSSY)
    def test_every_lossy_syntax_is_close(self, syntax: str) -> None:
        pixels = film(bits=12)
        image = decode(write(pixels, syntax, bits=12, WindowCenter=2048, WindowWidth=4096))
        assert np.abs(image.pixels - window(pixels, 2048, 4096)).mean() < 3

    def test_a_baseline_jpeg_of_eight_bits(self) -> None:
        pixels = film(bits=8)
        assert np.abs(decode(write(pixels, BASELINE)).pixels.astype(int) - pixels).mean() < 3

    @pytest.mark.parametrize("syntax", [EXPLICIT, BIG, RLE, JPEG_2000, BASELINE])
    def test_a_secondary_capture_in_colour(self, syntax: str) -> None:
        pixels = np.stack([film(bits=8)] * 3, axis=2)
        pixels[..., 2] //= 2
        image = decode(write(pixels, syntax, storage=CAPTURE, Modality="OT"))
        assert image.pixels.shape == (72, 96)
        assert 0.02 < image.colour < 0.5
        assert "colour image converted to grey" in image.warnings

    def test_colour_in_planes(self) -> None:
        pixels = np.stack([film(bits=8)] * 3, axis=2)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(pixels.shape)
        image = decode(write(planes, storage=CAPTURE, Modality="OT", PlanarConfiguration=1))
        assert np.array_equal(image.pixels, decode(write(pixels, storage=CAPTURE, Modality="OT")).pixels)

    @pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_LS, JPEG_2000, RLE])
    def test_the_first_of_several_frames_is_decoded(self, syntax: str) -> None:
        pixels = film(bits=12)
        image = decode(write(pixels, syntax, bits=12, frames=3, **WINDOW))
        assert np.array_equal(image.pixels, window(pixels, 2100, 3000))
        assert "first of 3 frames" in image.warnings

    @pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, JPEG_LS])
    def test_a_file_without_its_preamble(self, syntax: str) -> None:
        image = decode(write(film(), syntax, preamble=False))
        assert "DICOM without its preamble" in image.warnings

    @pytest.mark.parametrize(
        ("syntax", "order", "implicit"), [(IMPLICIT, "<", True), (EXPLICIT, "<", False), (BIG, ">", False)]
    )
    def test_a_file_without_its_meta_group(self, syntax: str, order: str, *, implicit: bool) -> None:
        pixels = film()
        data = write(pixels, syntax, bits=12, SpecificCharacterSet="ISO_IR 100", **WINDOW)
        meta = 132 + 12 + struct.unpack_from("<I", data, 140)[0]
        assert np.array_equal(decode(data[meta:]).pixels, window(pixels, 2100, 3000))

    def test_an_unsupported_transfer_syntax(self) -> None:
        data = write(film()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0", 1)
        assert reason(data) == "unsupported-format"


class TestGreyLevels:
    def test_monochrome1_is_inverted(self) -> None:
        pixels = film()
        image = decode(
            write(4095 - pixels, bits=12, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096)
        )
        assert np.abs(image.pixels - window(pixels, 2048, 4096)).max() <= 1
        assert "MONOCHROME1 inverted" in image.warnings

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
            assert "window table applied" in ours.warnings
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
        assert "no window: grey levels were spread" in image.warnings
        assert "12 bit reduced to 8" in image.warnings

    def test_eight_bits_without_a_window_stay_as_they_are(self) -> None:
        pixels = film(bits=8)
        image = decode(write(pixels))
        assert np.array_equal(image.pixels, pixels)
        assert image.warnings == ()

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
        pixels[:, :20] = 4095
        image = decode(write(pixels, bits=12, PixelPaddingValue=4095))
        assert image.pixels[:, :20].max() == 0
        assert image.pixels[:, 20:].max() == 255

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


class TestAccepted:
    @pytest.mark.parametrize(
        ("storage", "modality"), [(CR, "CR"), (DX, "DX"), (CAPTURE, "OT"), (CAPTURE, "CR"), (DX, "")]
    )
    def test_radiographs_and_secondary_captures(self, storage: str, modality: str) -> None:
        assert decode(write(film(), storage=storage, Modality=modality)).format == "dicom"

    def test_a_file_without_a_storage_class(self) -> None:
        data = write(film(), storage=CR)
        assert decode(data.replace(CR.encode() + b"\0", b"\0" * (len(CR) + 1))).format == "dicom"

    @pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "NM", "PT", "XA", "SR", "SECRET"])
    def test_other_modalities_are_refused_by_name(self, modality: str) -> None:
        for storage in (DX, CAPTURE, CT):
            with pytest.raises(ImageRefused, match=r"expected a radiograph") as refused:
                decode(write(film(), storage=storage, Modality=modality))
            assert refused.value.reason == "not-an-xray"
            assert "SECRET" not in str(refused.value)

    def test_a_file_without_an_image(self) -> None:
        data = write(film())
        assert reason(data[: data.index(b"\xe0\x7f\x10\x00")]) == "corrupt"

    def test_body_part_view_and_raw_values_cause_warnings(self) -> None:
        elements = {"BodyPartExamined": "HAND", "ViewPosition": "LL", "PresentationIntentType": "FOR PROCESSING"}
        warnings = decode(write(film(), **elements)).warnings
        assert len([warning for warning in warnings if warning.startswith("the DICOM")]) == 3
        assert "HAND" not in str(warnings)

    def test_pydicoms_test_files(self) -> None:
        folder = Path(pydicom.__file__).parent / "data/test_files"
        outcomes = {"accepted": 0}
        for path in sorted(folder.glob("*.dcm")):
            try:
                decode(path.read_bytes(), Limits(min_side=1))
                outcomes["accepted"] += 1
            except ImageRefused as refused:
                outcomes[refused.reason] = outcomes.get(refused.reason, 0) + 1
        assert outcomes["accepted"] >= 20
        assert outcomes["not-an-xray"] >= 25

    def test_reading_dicom_imports_neither_pydicom_nor_pandas(self) -> None:
        script = (
            "import sys; from lungline.imaging.preparation import decode\n"
            "assert 'imagecodecs' not in sys.modules\n"
            "decode(sys.stdin.buffer.read())\n"
            "print([name for name in ('pydicom', 'dicomanonymizer', 'pandas') if name in sys.modules])"
        )
        process = subprocess.run(
            [sys.executable, "-c", script], input=write(film(), JPEG_LS), capture_output=True, check=True
        )
        assert process.stdout.strip() == b"[]"


class TestDamage:
    @pytest.mark.parametrize("syntax", [*EXACT, BASELINE, EXTENDED])
    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
    def test_a_truncated_file(self, syntax: str, share: float) -> None:
        data = write(film(bits=8 if syntax == BASELINE else 12), syntax, bits=8 if syntax == BASELINE else 12)
        assert reason(data[: int(len(data) * share)]) in {"truncated", "corrupt", "not-an-image"}

    @pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, RLE, EXTENDED])
    def test_compressed_pixels_of_another_size_than_the_header(self, syntax: str) -> None:
        data = write(film(), syntax, bits=12)
        at = data.index(b"\x28\x00\x11\x00US\x02\x00") + 8
        assert reason(data[:at] + struct.pack("<H", 95) + data[at + 2 :]) in {"corrupt", "truncated"}

    def test_compressed_pixels_under_a_plain_syntax(self) -> None:
        data = write(film(), JPEG_LS)
        assert reason(data.replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.1\0\0\0", 1)) == "corrupt"

    @pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"])
    def test_a_header_without_a_required_element(self, keyword: str) -> None:
        assert reason(write(film(), **{keyword: None}) if keyword != "Rows" else without_rows()) in {
            "corrupt",
            "unsupported-format",
        }

    @pytest.mark.parametrize(("stored", "high"), [(0, 11), (17, 16), (12, 5), (12, 16)])
    def test_impossible_bits(self, stored: int, high: int) -> None:
        assert reason(write(film(), bits=12, BitsStored=stored, HighBit=high)) == "corrupt"


def without_rows() -> bytes:
    data = write(film())
    at = data.index(b"\x28\x00\x10\x00US\x02\x00")
    return data[:at] + data[at + 10 :]


def claiming(data: bytes, rows: int, columns: int) -> bytes:
    for element, value in ((b"\x28\x00\x10\x00US\x02\x00", rows), (b"\x28\x00\x11\x00US\x02\x00", columns)):
        at = data.index(element) + 8
        data = data[:at] + struct.pack("<H", value) + data[at + 2 :]
    return data


def items(*parts: bytes) -> bytes:
    body = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in parts)
    return body + b"\xfe\xff\xdd\xe0\0\0\0\0"


def with_pixels(data: bytes, pixels: bytes) -> bytes:
    """The file with other compressed pixels."""
    at = data.rindex(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    return data[:at] + items(b"", pixels + b"\0" * (len(pixels) % 2))


def deflated(data: bytes, extra: bytes) -> bytes:
    """The file, which is explicit and little endian, deflated with `extra` at its end."""
    end = 144 + struct.unpack_from("<I", data, 140)[0]
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = data[:end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    meta = meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:]
    at = meta.index(b"\x02\x00\x10\x00UI") + 6
    meta = meta[:at] + struct.pack("<H", 22) + meta[at + 2 :]
    return meta + coder.compress(data[end:] + extra) + coder.flush()


def sequence_of(depth: int) -> bytes:
    return b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth


def bombs() -> dict[str, bytes]:
    """Files that claim far more than they contain."""
    plain, packed = write(film()), write(film(), JPEG_2000)
    body = plain[: plain.rindex(b"\xe0\x7f\x10\x00")]
    stream = dicom_files.compressed(film(), JPEG_2000, 12)
    tiles = stream[:24] + struct.pack(">II", 1, 1) + stream[32:]
    vast = stream[:8] + struct.pack(">IIIIII", 8000, 8000, 0, 0, 8000, 8000) + stream[32:]
    jpeg = dicom_files.compressed(film(), JPEG_LS, 12)
    vast_jpeg = jpeg[:4] + jpeg[4:].replace(struct.pack(">HH", 72, 96), struct.pack(">HH", 60000, 60000), 1)
    runs = struct.pack("<16I", 2, 64, 1_000_064, *[0] * 13) + b"\x81\x00" * 1_000_000
    return {
        "header": claiming(plain, 65535, 65535),
        "tight-header": claiming(plain, 7000, 8000),
        "compressed-header": claiming(packed, 7900, 8000),
        "frames": plain.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x08\x00IS\x0a\x002000000000\x28\x00\x10\x00US", 1),
        "deflated": deflated(claiming(plain, 7900, 8000), b"\0" * 200_000_000),
        "deflated-header": deflated(
            plain[: 144 + struct.unpack_from("<I", plain, 140)[0]], b"\x08\0\x05\0CS\0\0" * 10_000_000
        ),
        "elements": body + b"\x09\x00\x01\x00LO\x00\x00" * 5_000_000,
        "deep": body + sequence_of(100_000),
        "fragments": write(film(), JPEG_LS)[:-8] + b"\xfe\xff\x00\xe0\0\0\0\0" * 5_000_000,
        "tiles": with_pixels(packed, tiles),
        "vast-stream": with_pixels(packed, vast),
        "vast-jpeg-ls": with_pixels(write(film(), JPEG_LS), vast_jpeg),
        "runs": with_pixels(write(film(), RLE), runs),
    }


BOMBS = [
    "header",
    "tight-header",
    "compressed-header",
    "frames",
    "deflated",
    "deflated-header",
    "elements",
    "deep",
    "fragments",
]
BOMBS += ["tiles", "vast-stream", "vast-jpeg-ls", "runs"]


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    return costs_of(bombs(), tmp_path_factory.mktemp("bombs"))


class TestBombs:
    @pytest.mark.parametrize("name", BOMBS)
    def test_a_bomb_costs_at_most_50_ms_and_100_mb(self, costs: dict[str, Cost], name: str) -> None:
        cost = costs[name]
        assert cost.reason != "accepted" or name == "frames"
        assert cost.milliseconds < 50
        assert cost.megabytes < 100


def test_a_data_set_may_contain_dicom_under_any_name(tmp_path: Path) -> None:
    names = {"a.dcm": write(film(), JPEG_LS, bits=12), "b": write(film(seed=2), bits=12), "c.jpeg": write(film(seed=3))}
    for split in ("train", "val", "test"):
        for label in ("NORMAL", "PNEUMONIA"):
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for name, data in names.items():
                (folder / name).write_bytes(data)
    dataset = open_dataset(str(tmp_path / "set"), settings=Settings())
    prepare(dataset, Preparation(), tmp_path / "prepared")
    index = Prepared.load(tmp_path / "prepared").index
    assert len(index) == 18
    assert {row.format for row in index} == {"dicom"}
