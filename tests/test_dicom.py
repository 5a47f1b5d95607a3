# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

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
    window,
    write,
)

WINDOW = {"WindowCenter": "2100", "WindowWidth": "3000"}
SMALL = Limits(min_side=8)


def reason(data: bytes, limits: Limits = SMALL) -> str:
    with pytest.raises(ImageRefused) as refused:
        decode(data, limits)
    assert str(refused.value).endswith(".")
    return refused.value.reason


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
        assert "DICOM without its preamble" in image.notes

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


class TestAccepted:
    @pytest.mark.parametrize(
        ("storage", "modality"),
        [
            *((CR, "CR"), (DX, "DX"), (CAPTURE, "OT"), (CAPTURE, "CR"), (DX, ""), (CAPTURE, "")),
            *((CR, "OT"), (CR, "XR"), (DX, "RG"), (CR, "RX"), (CR, "SC"), (CAPTURE, "XR")),
        ],
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

    def test_raw_detector_values_cause_a_warning(self) -> None:
        image = decode(write(film(), PresentationIntentType="FOR PROCESSING"))
        assert image.warnings == ("the DICOM holds raw detector values, not meant for viewing",)

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

    @pytest.mark.parametrize(
        ("elements", "sentence"),
        [
            ({"PhotometricInterpretation": None}, "does not state its photometric interpretation"),
            (
                {"PhotometricInterpretation": "PALETTE COLOR"},
                "photometric interpretation PALETTE COLOR is not supported",
            ),
            ({"PhotometricInterpretation": "DOE JOHN"}, "The DICOM's pixel format is not supported"),
            ({"BitsAllocated": 32}, "has 32 bits a sample; expected 8 or 16"),
            ({"BitsAllocated": 1}, "has 1 bits a sample; expected 8 or 16"),
            ({"SamplesPerPixel": 3}, "has 3 samples a pixel, which MONOCHROME2 does not have"),
        ],
    )
    def test_the_message_names_an_unsupported_format(self, elements: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ImageRefused, match=sentence) as refused:
            decode(write(film(), **elements))
        assert refused.value.reason == "unsupported-format"

    def test_a_dicomdir_is_refused_by_name(self) -> None:
        data = write(film(), storage="1.2.840.10008.1.3.10")
        with pytest.raises(ImageRefused, match="The file is a DICOMDIR"):
            decode(data)

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
