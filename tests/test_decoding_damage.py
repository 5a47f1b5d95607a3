"""Files with damaged data that still end well: their decoders repair them silently, so they must be refused before."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from lungline.datasets import phantom
from lungline.errors import ImageRefused
from lungline.imaging.decoding import decode
from lungline.imaging.lossless_jpeg import is_damaged
from tests.support import dicom_files
from tests.support.dicom_files import film
from tests.support.image_files import drawing, encoded, exif, refusal_reason

XRAY = Image.fromarray(phantom.draw(np.random.default_rng(3), opacities=True, size=400))

FILES: dict[str, bytes] = {
    "jpeg": encoded(XRAY, "JPEG"),
    "jpeg-colour": encoded(XRAY.convert("RGB"), "JPEG"),
    "jpeg-rgb": encoded(XRAY.convert("RGB"), "JPEG", keep_rgb=True),
    "jpeg-cmyk": encoded(XRAY.convert("CMYK"), "JPEG"),
    "jpeg-progressive": encoded(XRAY, "JPEG", progressive=True),
    "jpeg-turned": encoded(XRAY, "JPEG", exif=exif(6)),
    "png": encoded(XRAY, "PNG"),
    "tiff-lzw": encoded(XRAY, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": encoded(XRAY, "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": encoded(XRAY, "TIFF", compression="packbits"),
    "dicom-baseline": dicom_files.write(film(400, bits=8), dicom_files.BASELINE),
    "dicom-lossless": dicom_files.write(film(400), dicom_files.LOSSLESS_FIRST, bits=12),
    "dicom-jpeg-ls": dicom_files.write(film(400), dicom_files.JPEG_LS, bits=12),
    "dicom-run-lengths": dicom_files.write(film(400), dicom_files.RLE, bits=12),
    "dicom-deflated": dicom_files.write(film(400), dicom_files.DEFLATED, bits=12),
}
DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "zeros": lambda data, at: data[:at] + bytes(200) + data[at + 200 :],
    "other-bytes": lambda data, at: (
        data[:at] + random.Random(at).randbytes(200).replace(b"\xff", b"\0") + data[at + 200 :]
    ),
    "a-part-is-missing": lambda data, at: data[:at] + data[at + 500 :],
    "a-part-stands-twice": lambda data, at: data[: at + 500] + data[at:],
}


# What is lost from a later scan of a progressive JPEG may leave nothing to notice.
CASES = [
    (name, damage) for name in FILES for damage in DAMAGES if (name, damage) != ("jpeg-progressive", "other-bytes")
]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damaged_data_is_refused(name: str, damage: str) -> None:
    """At nearly all places: now and then, the data after the damage fits again, and nothing shows it."""
    data = FILES[name]
    assert decode(data).width
    places = np.linspace(0.2, 0.9, 12) * len(data)
    outcomes = [outcome(DAMAGES[damage](data, int(place))) for place in places]
    assert set(outcomes) <= {"corrupt", "truncated", "accepted"}
    assert outcomes.count("accepted") <= 1


def outcome(data: bytes) -> str:
    try:
        decode(data)
    except ImageRefused as refused:
        return refused.reason
    return "accepted"


@pytest.mark.parametrize("at_least", [None, 100])
@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("jpeg")])
def test_an_end_marker_in_the_middle_is_no_end(name: str, at_least: int | None) -> None:
    data = FILES[name]
    assert refusal_reason(data[: len(data) * 2 // 3] + b"\xff\xd9", at_least=at_least) == "corrupt"


def test_a_restart_marker_out_of_order() -> None:
    data = encoded(XRAY, "JPEG", restart_marker_blocks=40)
    assert decode(data).width == 400
    assert refusal_reason(data.replace(b"\xff\xd3", b"\xff\xd5", 1)) == "corrupt"


@pytest.mark.parametrize(
    "harmless",
    [
        lambda data: data + b"\0" * 1000,
        lambda data: data.replace(b"JFIF\0\1\1", b"JFIF\0\2\1", 1),
        lambda data: data[:-2] + b"\xff\xff" + data[-2:],
        lambda data: data[: data.index(b"\xff\xda") + 7] + b"\0\0\0" + data[data.index(b"\xff\xda") + 10 :],
    ],
    ids=["bytes after the end", "another JFIF version", "fill bytes", "scan parameters of zero"],
)
def test_oddities_without_damage_are_accepted(harmless: Callable[[bytes], bytes]) -> None:
    data = encoded(drawing(), "JPEG")
    assert np.array_equal(decode(harmless(data)).pixels, decode(data).pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpegs_without_damage_pass(bits: int, predictor: int) -> None:
    import imagecodecs

    for pixels in (film(200, bits=bits), np.zeros_like(film(200, bits=bits))):
        stream = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
        assert not is_damaged(bytes(stream), pixels.size)


def test_most_short_damages_of_a_lossless_jpeg_are_noticed() -> None:
    """Sixteen bytes anywhere."""
    stream = dicom_files.compressed(film(300), dicom_files.LOSSLESS, 12)
    chance, noticed = random.Random(5), 0
    for _ in range(50):
        at = chance.randrange(len(stream) // 10, len(stream) - 100)
        damaged = stream[:at] + chance.randbytes(16).replace(b"\xff", b"\0") + stream[at + 16 :]
        noticed += is_damaged(damaged, film(300).size)
    assert noticed >= 45


def test_the_refusal_says_that_the_data_is_damaged() -> None:
    data = FILES["jpeg"]
    with pytest.raises(ImageRefused, match=r"The JPEG's data is damaged\."):
        decode(DAMAGES["zeros"](data, len(data) // 2))
