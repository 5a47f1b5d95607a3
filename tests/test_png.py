import warnings
import zlib

import numpy as np
import pytest

from lungline.imaging.png import write_png
from tests.support.image_files import opened


class TestPngWriter:
    @pytest.mark.parametrize("stored", [True, False])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 301), (5, 4, 3), (200, 300, 3)])
    def test_pillow_decodes_the_same_pixels(self, shape: tuple[int, ...], *, stored: bool) -> None:
        pixels = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(np.asarray(opened(write_png(pixels, stored=stored))), pixels)

    def test_stored_bytes_never_change(self) -> None:
        pixels = np.arange(70_000, dtype=np.uint32).astype(np.uint8).reshape(200, 350)
        assert zlib.crc32(write_png(pixels, stored=True)) == 356316038
