import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lungline.datasets import phantom
from lungline.errors import ImageRefused
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from tests.support.image_files import chunk, drawing, encoded, exif, png_of

REASONS = {
    "empty",
    "too-large",
    "too-many-pixels",
    "too-small",
    "not-an-image",
    "unsupported-format",
    "truncated",
    "corrupt",
    "bomb",
    "not-an-xray",
}


REAL_FILES = [
    phantom.jpeg(1, opacities=True, size=96),
    encoded(drawing().convert("RGB"), "JPEG", progressive=True, exif=exif(6)),
    encoded(drawing(), "PNG", exif=exif(3)),
    encoded(drawing().convert("P"), "PNG", transparency=b"\0\x80"),
    encoded(drawing().convert("RGBA"), "PNG"),
    encoded(drawing(), "TIFF", compression="tiff_lzw"),
    encoded(drawing().convert("P"), "TIFF"),
    encoded(drawing(), "BMP"),
    encoded(drawing().convert("RGB"), "WEBP"),
]


class TestAnyBytes:
    """Any bytes become an image or a refusal; no other error, and no warning."""

    def decode_any(self, data: bytes) -> None:
        try:
            decoded = decode(data, Limits(min_side=1, max_pixels=1_000_000), at_least=64)
        except ImageRefused as refused:
            outcome = refused.reason
        else:
            outcome = "accepted"
            assert decoded.pixels.dtype == np.uint8
            assert decoded.pixels.ndim == 2
            assert 0 <= decoded.colour <= 1
        assert outcome in REASONS | {"accepted"}

    @given(st.binary(max_size=500))
    def test_random_bytes(self, data: bytes) -> None:
        self.decode_any(data)

    @given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]), st.binary(max_size=300))
    def test_random_bytes_after_a_valid_signature(self, magic: bytes, data: bytes) -> None:
        self.decode_any(magic + data)

    @settings(max_examples=400, deadline=None)
    @given(st.sampled_from(REAL_FILES), st.data())
    def test_real_files_with_damage(self, original: bytes, data: st.DataObject) -> None:
        damaged = bytearray(original)
        for _ in range(data.draw(st.integers(1, 8))):
            # Most errors are in the header.
            at = data.draw(st.one_of(st.integers(0, 700), st.integers(0, len(original) - 1))) % len(damaged)
            damaged[at] = data.draw(st.integers(0, 255))
        start, end = sorted((data.draw(st.integers(0, len(damaged))), data.draw(st.integers(0, len(damaged)))))
        if data.draw(st.booleans()):
            del damaged[start:end]
        self.decode_any(bytes(damaged))

    @settings(max_examples=200, deadline=None)
    @given(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.sampled_from([1, 2, 4, 8, 16, 3]),
        st.sampled_from([0, 2, 3, 4, 6, 5]),
        st.binary(max_size=2000),
        st.binary(max_size=800),
    )
    def test_pngs_of_any_header(
        self, size: tuple[int, int], depth: int, colour: int, pixels: bytes, colours: bytes
    ) -> None:
        data = png_of(*size, zlib.compress(pixels), depth, colour)
        self.decode_any(data)
        self.decode_any(data[:33] + chunk(b"PLTE", colours) + chunk(b"tRNS", colours[:7]) + data[33:])
