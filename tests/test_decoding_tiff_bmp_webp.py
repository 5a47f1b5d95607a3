import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from tests.support.image_files import (
    drawing,
    encoded,
    exif,
    refusal_reason,
    tiff_tiles,
)


class TestTiffBmpAndWebp:
    @pytest.mark.parametrize(
        "options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}]
    )
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
    def test_a_tiff_of_any_mode_gives_the_same_image(self, mode: str, options: Any) -> None:
        grey = drawing()
        if mode == "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            image = grey.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else grey.convert(mode)
        decoded = decode(encoded(image, "TIFF", **options))
        assert (decoded.format, decoded.width, decoded.height) == ("tiff", 96, 64)
        assert abs(decoded.pixels.mean() - np.asarray(grey).mean()) < 1.5

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
    def test_a_bmp_of_any_mode_gives_the_same_image(self, mode: str) -> None:
        decoded = decode(encoded(drawing().convert(mode), "BMP"))
        assert (decoded.format, decoded.width, decoded.height) == ("bmp", 96, 64)
        assert abs(decoded.pixels.mean() - np.asarray(drawing()).mean()) < 1.5

    def test_a_bmp_may_be_stored_top_down(self) -> None:
        data = encoded(drawing(), "BMP")
        turned = data[:22] + struct.pack("<i", -64) + data[26:]
        assert np.array_equal(decode(turned).pixels, decode(data).pixels[::-1])

    @pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}, {"quality": 90, "exif": exif(1)}])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_a_webp_gives_the_same_image(self, mode: str, options: Any) -> None:
        decoded = decode(encoded(drawing().convert(mode), "WEBP", **options))
        assert (decoded.format, decoded.width, decoded.height) == ("webp", 96, 64)
        assert np.abs(decoded.pixels.astype(int) - np.asarray(drawing())).mean() < 3
        assert decoded.colour < 0.02

    def test_a_lossy_webp_with_transparency_is_placed_on_black(self) -> None:
        image = Image.new("RGBA", (64, 64), (200, 200, 200, 0))
        image.paste((200, 200, 200, 255), (0, 0, 32, 64))
        decoded = decode(encoded(image, "WEBP", quality=90))
        assert decoded.pixels[:, 40:].max() < 20
        assert decoded.warnings == ("transparency placed on black",)

    def test_an_animated_webp_is_refused(self) -> None:
        image = drawing().convert("RGB")
        data = encoded(image, "WEBP", save_all=True, append_images=[ImageOps.mirror(image)])
        assert refusal_reason(data) == "unsupported-format"

    @pytest.mark.parametrize("kind", ["L", "I;16"])
    def test_a_tiff_whose_zero_is_white_is_inverted(self, kind: str) -> None:
        values = np.asarray(drawing())
        image = Image.fromarray(values if kind == "L" else values.astype(np.uint16) * 257)
        data = bytearray(encoded(image, "TIFF"))
        at = data.index(struct.pack("<HHIH", 262, 3, 1, 1)) + 8
        data[at] = 0
        low, high = int(values.min()), int(values.max())
        expected = 255 - values if kind == "L" else 255 - np.rint((values.astype(float) - low) * 255 / (high - low))
        assert np.abs(decode(bytes(data)).pixels - expected.astype(int)).max() <= 1

    def test_a_big_endian_tiff(self) -> None:
        values = (np.asarray(drawing()).astype(np.uint16) * 16).astype(">u2")
        head = b"MM\0*" + struct.pack(">I", 8 + values.nbytes) + values.tobytes()
        entries = {256: 96, 257: 64, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: values.nbytes}
        body = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries.items())
        decoded = decode(head + struct.pack(">H", len(entries)) + body + b"\0\0\0\0")
        assert np.abs(decoded.pixels.astype(int) - spread(np.asarray(drawing()))).max() <= 1

    def test_a_tiff_in_tiles(self) -> None:
        values = np.zeros((64, 96), np.uint8)
        values[:, ::2] = 200
        tile = zlib.compress(values[:32, :32].tobytes())
        decoded = decode(tiff_tiles(96, 64, 32, tile))
        assert np.array_equal(decoded.pixels, values)

    def test_the_first_of_equal_pages_is_decoded(self) -> None:
        data = encoded(drawing(), "TIFF", save_all=True, append_images=[ImageOps.mirror(drawing())])
        assert np.array_equal(decode(data).pixels, np.asarray(drawing()))

    @pytest.mark.parametrize("sizes", [((48, 32), (96, 64)), ((96, 64), (48, 32)), ((30, 30), (96, 64), (50, 60))])
    @pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
    def test_the_largest_page_of_a_tiff_is_decoded(self, sizes: tuple[tuple[int, int], ...], options: Any) -> None:
        first, *others = (drawing(*size) for size in sizes)
        decoded = decode(encoded(first, "TIFF", save_all=True, append_images=others, **options))
        assert np.array_equal(decoded.pixels, np.asarray(drawing()))
        assert decoded.warnings == ()

    def test_a_full_image_below_a_thumbnail_is_decoded(self) -> None:
        """As a subimage of the first directory."""
        full = encoded(drawing(), "TIFF")
        start = int.from_bytes(full[4:8], "little")
        data = full + struct.pack("<HHHIIHHIIHHIII", 3, 256, 4, 1, 30, 257, 4, 1, 30, 330, 4, 1, start, 0)
        assert decode(data[:4] + struct.pack("<I", len(full)) + data[8:]).width == 96

    def test_several_pages_of_one_size_cause_a_warning(self) -> None:
        data = encoded(drawing(), "TIFF", save_all=True, append_images=[drawing()] * 2)
        assert decode(data).warnings == ("first of 3 pages",)

    @pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
    @pytest.mark.parametrize("outliers", [1, 6, 40])
    @pytest.mark.parametrize("value", [0, 65535])
    def test_outliers_do_not_take_the_contrast(self, file_format: str, outliers: int, value: int) -> None:
        values = np.asarray(drawing()).astype(np.uint16) * 16 + 20_000
        corrupted = values.copy()
        corrupted.reshape(-1)[:: values.size // outliers] = value
        expected = decode(encoded(Image.fromarray(values), file_format)).pixels.astype(int)
        pixels = decode(encoded(Image.fromarray(corrupted), file_format)).pixels.astype(int)
        assert pixels.std() > 0.75 * expected.std()
        assert np.median(np.abs(pixels - expected)) < 30

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["TIFF", "WEBP"])
    def test_every_orientation_is_honoured(self, orientation: int, file_format: str) -> None:
        options: Any = (
            {"tiffinfo": {0x0112: orientation}}
            if file_format == "TIFF"
            else {"exif": exif(orientation), "lossless": True}
        )
        data = encoded(drawing().convert("RGB"), file_format, **options)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        decoded = decode(data)
        assert (decoded.width, decoded.height) == upright.size
        assert np.abs(decoded.pixels.astype(int) - np.asarray(upright.convert("L"))).max() <= 1

    @pytest.mark.parametrize("file_format", ["TIFF", "BMP", "WEBP"])
    @pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
    def test_a_truncated_file(self, file_format: str, share: float) -> None:
        data = encoded(drawing(300, 300).convert("RGB"), file_format)
        assert refusal_reason(data[: max(2, int(len(data) * share))]) in {"truncated", "not-an-image"}

    @pytest.mark.parametrize("file_format", ["TIFF", "BMP", "WEBP"])
    def test_limits_hold(self, file_format: str) -> None:
        data = encoded(drawing().convert("RGB"), file_format)
        assert refusal_reason(data, Limits(max_pixels=96 * 64 - 1)) == "too-many-pixels"
        assert refusal_reason(data, Limits(min_side=65)) == "too-small"

    def test_a_fax_tiff_is_refused(self) -> None:
        assert refusal_reason(encoded(drawing().convert("1"), "TIFF", compression="group4")) == "unsupported-format"

    def test_a_tiff_of_floating_point_numbers_is_refused(self) -> None:
        assert refusal_reason(encoded(Image.fromarray(np.zeros((64, 64), np.float32)), "TIFF")) == "unsupported-format"


def spread(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    return np.rint((values.astype(float) - low) * 255 / (high - low)).astype(int)
