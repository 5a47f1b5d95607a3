import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from lungline.errors import ImageRefused
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from tests.support.image_files import (
    chunk,
    drawing,
    encoded,
    exif,
    png_of,
    refusal_reason,
)


class TestAccepted:
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_a_grey_image_keeps_its_grey_levels(self, file_format: str) -> None:
        decoded = decode(encoded(drawing(), file_format, **({"quality": 95} if file_format == "JPEG" else {})))
        assert decoded.format == file_format.lower()
        assert (decoded.width, decoded.height) == (96, 64)
        assert decoded.pixels.dtype == np.uint8
        assert np.abs(decoded.pixels.astype(int) - np.asarray(drawing())).max() <= (0 if file_format == "PNG" else 12)
        assert decoded.colour == 0
        assert decoded.warnings == ()

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_a_png_of_any_mode_gives_the_same_image(self, mode: str) -> None:
        grey = drawing()
        if mode == "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            image = grey.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else grey.convert(mode)
        pixels = decode(encoded(image, "PNG")).pixels
        assert abs(pixels.mean() - np.asarray(grey).mean()) < 1.5

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_of_any_mode_gives_the_same_image(self, mode: str, *, progressive: bool) -> None:
        data = encoded(drawing().convert(mode), "JPEG", quality=95, progressive=progressive)
        decoded = decode(data)
        assert np.abs(decoded.pixels.astype(int) - np.asarray(drawing())).mean() < 1.5
        assert decoded.colour < 0.01

    def test_a_jpeg_may_store_rgb_without_conversion(self) -> None:
        red = Image.new("RGB", (64, 64), (250, 10, 10))
        decoded = decode(encoded(red, "JPEG", quality=95, keep_rgb=True))
        assert decoded.colour > 0.9
        assert abs(decoded.pixels.mean() - np.asarray(red.convert("L")).mean()) < 3

    def test_colour_is_measured_and_warned_about(self) -> None:
        orange = Image.new("RGB", (64, 64), (250, 120, 10))
        for data in (encoded(orange, "PNG"), encoded(orange, "JPEG", quality=95)):
            decoded = decode(data)
            assert decoded.colour == pytest.approx(240 / 255, abs=0.03)
            assert decoded.warnings == ("colour image converted to grey",)

    def test_transparent_parts_become_black(self) -> None:
        image = Image.new("RGBA", (64, 64), (200, 200, 200, 0))
        image.paste((200, 200, 200, 255), (0, 0, 32, 64))
        decoded = decode(encoded(image, "PNG"))
        assert decoded.pixels[:, :32].min() == 200
        assert decoded.pixels[:, 32:].max() == 0
        assert decoded.warnings == ("transparency placed on black",)

    def test_a_palette_with_transparent_entries_raises_no_pillow_warning(self) -> None:
        image = drawing().convert("P", palette=Image.Palette.ADAPTIVE)
        decoded = decode(encoded(image, "PNG", transparency=bytes([0] * 128 + [255] * 128)))
        assert decoded.pixels.min() == 0

    def test_an_opaque_alpha_channel_causes_no_warning(self) -> None:
        assert decode(encoded(drawing().convert("RGBA"), "PNG")).warnings == ()

    def test_sixteen_bits_are_spread_over_eight(self) -> None:
        twelve = (np.asarray(drawing()).astype(np.uint16) << 4) + 100
        decoded = decode(encoded(Image.fromarray(twelve), "PNG"))
        assert (decoded.pixels.min(), decoded.pixels.max()) == (0, 255)
        assert decoded.notes == ("16 bit reduced to 8",)

    def test_a_constant_16_bit_image_is_blank(self) -> None:
        decoded = decode(encoded(Image.fromarray(np.full((64, 64), 4000, np.uint16)), "PNG"))
        assert decoded.is_blank

    def test_the_content_decides_the_format(self) -> None:
        assert decode(encoded(drawing(), "PNG")).format == "png"

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_every_exif_orientation_is_honoured(self, orientation: int, file_format: str) -> None:
        data = encoded(drawing(), file_format, exif=exif(orientation))
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        decoded = decode(data)
        assert np.array_equal(decoded.pixels, np.asarray(upright))
        assert (decoded.width, decoded.height) == upright.size

    @pytest.mark.parametrize(
        "block",
        [b"", b"II*\0", b"garbage garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" * 99],
    )
    def test_a_broken_exif_block_costs_nothing(self, block: bytes) -> None:
        data = encoded(drawing(), "JPEG", exif=b"Exif\0\0" + block)
        assert (decode(data).width, decode(data).height) == (96, 64)

    def test_an_animated_png_gives_its_first_image(self) -> None:
        data = encoded(drawing(), "PNG", save_all=True, append_images=[ImageOps.mirror(drawing())])
        assert np.array_equal(decode(data).pixels, np.asarray(drawing()))

    def test_bytes_after_the_image_are_ignored(self) -> None:
        for file_format in ("PNG", "JPEG"):
            data = encoded(drawing(), file_format)
            assert np.array_equal(decode(data + b"\0" * 1000).pixels, decode(data).pixels)

    def test_a_thumbnail_in_the_metadata_is_ignored(self) -> None:
        thumbnail = encoded(Image.new("L", (32, 32)), "JPEG")
        data = encoded(drawing(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
        assert decode(data).width == 96


class TestRefused:
    def test_an_empty_file(self) -> None:
        assert refusal_reason(b"") == "empty"

    def test_more_bytes_than_the_limit(self) -> None:
        data = encoded(drawing(), "PNG")
        assert refusal_reason(data, Limits(max_bytes=len(data) - 1)) == "too-large"
        assert decode(data, Limits(max_bytes=len(data))).width == 96

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_more_pixels_than_the_limit(self, file_format: str) -> None:
        data = encoded(drawing(), file_format)
        assert refusal_reason(data, Limits(max_pixels=96 * 64 - 1)) == "too-many-pixels"
        assert decode(data, Limits(max_pixels=96 * 64)).width == 96

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_a_side_shorter_than_the_limit(self, file_format: str) -> None:
        data = encoded(drawing(), file_format)
        assert refusal_reason(data, Limits(min_side=65)) == "too-small"
        assert decode(data, Limits(min_side=64)).height == 64

    def test_the_message_states_limit_and_size(self) -> None:
        with pytest.raises(
            ImageRefused, match=r"The image is 96 x 64 pixels; its shortest side must have at least 65\."
        ):
            decode(encoded(drawing(), "PNG"), Limits(min_side=65))

    @pytest.mark.parametrize("data", [b"hello", b"\0" * 500, b"<NORMAL>", "Ünïcode".encode(), b"P", b"\xff"])
    def test_content_that_is_not_an_image(self, data: bytes) -> None:
        assert refusal_reason(data) in {"not-an-image", "truncated"}

    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (encoded(drawing(), "GIF"), "GIF"),
            (encoded(drawing(), "JPEG2000"), "JPEG 2000"),
            (encoded(drawing(), "PDF"), "PDF"),
            (encoded(drawing(), "AVIF"), "AVIF"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_other_formats_by_name(self, data: bytes, name: str) -> None:
        assert refusal_reason(data) == "unsupported-format"
        with pytest.raises(ImageRefused, match=f"The file is {name}; expected JPEG, PNG, TIFF, BMP, WebP or DICOM"):
            decode(data)

    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (b"\x1f\x8b\x08" + bytes(40), "gzip; unpack it first"),
            (b"PK\x03\x04" + bytes(40), "a ZIP archive; unpack it first"),
            (b"7z\xbc\xaf\x27\x1c" + bytes(40), "a 7-Zip archive; unpack it first"),
            (bytes(257) + b"ustar" + bytes(200), "a tar archive; unpack it first"),
            (b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", "NIfTI"),
            (b"NRRD0004\n", "NRRD"),
            (b"%PDF-1.7", "PDF"),
            (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
            (b"\0\0\0\x18ftypmp42" + bytes(20), "a video"),
            (b"\xff\x0a" + bytes(40), "JPEG XL"),
            (b"II+\0" + bytes(40), "BigTIFF"),
            (b"GIF89a" + bytes(40), "GIF"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
            (b"<?xml version='1.0'?><a/>", "an XML document"),
            (b"\n<!DOCTYPE html><html>", "an HTML page"),
            (b"P5\n2 2\n255\nabcd", "a PGM image"),
            (b"\x93NUMPY\x01\0", "a NumPy array"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_other_kinds_of_files_by_name(self, data: bytes, name: str) -> None:
        assert refusal_reason(data) == "unsupported-format"
        with pytest.raises(ImageRefused, match=f"The file is {name}"):
            decode(data)

    def test_a_jpeg_ls_file_by_name(self) -> None:
        data = bytes(imagecodecs.jpegls_encode(np.asarray(drawing())))
        with pytest.raises(ImageRefused, match="The file is JPEG-LS"):
            decode(data)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    @pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("at_least", [None, 32])
    def test_a_truncated_file(self, file_format: str, share: float, at_least: int | None) -> None:
        data = encoded(drawing(300, 300), file_format)
        assert refusal_reason(data[: max(1, int(len(data) * share))], at_least=at_least) == "truncated"

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_a_file_without_its_last_bytes(self, file_format: str) -> None:
        data = encoded(drawing(), file_format)
        for cut in (1, 2, 5):
            assert refusal_reason(data[:-cut]) == "truncated"

    def test_a_png_with_a_flipped_bit(self) -> None:
        data = bytearray(encoded(drawing(), "PNG"))
        data[len(data) // 2] ^= 1
        assert refusal_reason(bytes(data)) == "corrupt"

    def test_a_png_with_too_few_pixels_and_right_checksums(self) -> None:
        short = zlib.compress(b"\0" * 500)
        assert refusal_reason(png_of(64, 64, short)) in {"truncated", "corrupt"}

    def test_a_png_whose_first_chunk_is_not_its_header(self) -> None:
        assert refusal_reason(b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"") + chunk(b"IEND", b"")) == "corrupt"

    def test_a_palette_png_without_its_palette(self) -> None:
        assert refusal_reason(png_of(64, 64, zlib.compress(b"\0" * 65 * 64), 8, 3)) == "corrupt"

    def test_a_png_of_endless_empty_chunks(self) -> None:
        header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") * 100_001
        assert refusal_reason(data) == "corrupt"

    def test_a_jpeg_of_twelve_bits(self) -> None:
        data = encoded(drawing(), "JPEG")
        at = data.index(b"\xff\xc0") + 4
        assert refusal_reason(data[:at] + b"\x0c" + data[at + 1 :]) == "unsupported-format"

    def test_a_lossless_jpeg(self) -> None:
        assert refusal_reason(encoded(drawing(), "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1)) == "unsupported-format"

    def test_a_jpeg_of_thousands_of_scans(self) -> None:
        data = encoded(drawing(), "JPEG", progressive=True)
        at = data.rindex(b"\xff\xda")
        assert refusal_reason(data[:at] + data[at:-2] * 1000 + b"\xff\xd9") == "corrupt"

    def test_a_jpeg_without_a_frame(self) -> None:
        data = encoded(drawing(), "JPEG")
        start = data.index(b"\xff\xc0")
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        assert refusal_reason(data[:start] + data[start + 2 + length :]) == "corrupt"
