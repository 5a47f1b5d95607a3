import resource
import struct
import zlib

import pytest
from PIL import Image

from lungline.imaging.decoding import decode
from tests.support.cpu_cost import Cost, costs_of
from tests.support.image_files import (
    ZEROS,
    chunk,
    drawing,
    encoded,
    jpeg_that_claims,
    png_of,
    tiff_of,
    tiff_strips,
    tiff_tiles,
    webp_that_claims,
)


def bombs() -> dict[str, bytes]:
    """Files that claim far more than they contain."""
    progressive = encoded(drawing(2000, 2000), "JPEG", progressive=True)
    at = progressive.index(b"\xff\xc2") + 5
    scan = progressive.rindex(b"\xff\xda")
    many_scans = progressive[:scan] + progressive[scan:-2] * 60 + b"\xff\xd9"
    bitmap = encoded(drawing(), "BMP")
    return {
        "png": png_of(50_000, 50_000, zlib.compress(b"\0" * 10_000_000)),
        "png-largest": png_of(2**31 - 1, 2**31 - 1, b""),
        "png-within-limits": png_of(7000, 9000, ZEROS),
        "png-interlaced-16-bit-colour": png_of(7000, 9000, ZEROS, 16, 6),
        "jpeg": jpeg_that_claims(65_500, 65_500),
        "jpeg-within-limits": jpeg_that_claims(7000, 9000),
        "jpeg-scans": many_scans[:at] + struct.pack(">HH", 4000, 4000) + many_scans[at + 4 :] + b"\0" * 300_000,
        "tiff": tiff_strips(60_000, 60_000, ZEROS),
        "tiff-within-limits": tiff_strips(7000, 9000, ZEROS),
        "tiff-huge-tile": tiff_tiles(100, 100, 40_000, ZEROS),
        "tiff-directory": b"II*\0\x08\0\0\0\xff\xff" + b"\0\1\4\0\xff\xff\xff\xff\0\0\0\0" * 65_535,
        "tiff-many-strips": tiff_of({256: (7000,), 257: (7000,), 278: (1,), 273: (8,) * 90_000, 279: (1,) * 90_000}),
        "tiff-deflate-in-a-small-decoded": tiff_strips(100, 100, ZEROS),
        "bmp": bitmap[:18] + struct.pack("<ii", 60_000, -60_000) + bitmap[26:],
        "bmp-run-lengths": bitmap[:18] + struct.pack("<iiHHI", 7000, 8000, 1, 8, 1) + bitmap[34:] + b"\0" * 300_000,
        "webp": webp_that_claims(16_383, 16_383),
        "webp-within-limits": webp_that_claims(7000, 8000) + b"\0" * 1_000_000,
    }


BOMBS = [
    *("png", "png-largest", "png-within-limits", "png-interlaced-16-bit-colour", "jpeg", "jpeg-within-limits"),
    *("jpeg-scans", "tiff", "tiff-within-limits", "tiff-huge-tile", "tiff-directory", "tiff-many-strips"),
    *("tiff-deflate-in-a-small-decoded", "bmp", "bmp-run-lengths", "webp", "webp-within-limits"),
]


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    return costs_of(bombs(), tmp_path_factory.mktemp("bombs"))


class TestBombs:
    @pytest.mark.parametrize("name", BOMBS)
    def test_a_bomb_costs_at_most_50_ms_and_100_mb(self, costs: dict[str, Cost], name: str) -> None:
        cost = costs[name]
        assert cost.reason != "accepted" or name == "tiff-deflate-in-a-small-decoded"
        assert cost.milliseconds < 50
        assert cost.megabytes < 100

    def test_a_text_bomb_is_never_inflated(self) -> None:
        text = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"\0" * 200_000_000))
        profile = chunk(b"iCCP", b"bomb\0\0" + zlib.compress(b"\0" * 200_000_000))
        data = encoded(drawing(), "PNG")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert decode(data[:33] + text + profile + data[33:]).width == 96
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

    def test_pillows_global_limit_does_not_apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert decode(encoded(drawing(), "PNG")).width == 96
