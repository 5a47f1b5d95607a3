"""Image files within all limits that cost the most memory to decode."""

import io

import numpy as np
from PIL import Image

from tests.support.dicom_files import RLE, write

SIDE = 7990  # 64 million pixels


def rgba_png() -> bytes:
    """700 KB that Pillow holds as 256 MB, several times while it converts them."""
    return _encoded(_pattern((SIDE, SIDE, 4), np.uint8, 256, share=40), "PNG", compress_level=6)


def progressive_jpeg() -> bytes:
    """All coefficients of three components lie in memory, whatever the scale."""
    return _encoded(_pattern((SIDE, SIDE, 3), np.uint8, 256), "JPEG", progressive=True, quality=40, subsampling=0)


def rle_dicom() -> bytes:
    """Run lengths of 16 bits."""
    return write(_pattern((SIDE, SIDE), np.uint16, 4096), RLE)


def bmp() -> bytes:
    """The largest file: 64 MB."""
    return _encoded(_pattern((SIDE, SIDE), np.uint8, 256), "BMP")


def _pattern(shape: tuple[int, ...], dtype: type, levels: int, share: int = 8) -> np.ndarray:
    """Noise in a part of each row, so that no limit on pixels a byte applies."""
    rows = np.random.default_rng(1).integers(0, levels, (64, *shape[1:]), dtype=dtype)
    rows[:, : shape[1] - shape[1] // share] = 7
    return np.tile(rows, (shape[0] // 64 + 1, *[1] * (len(shape) - 1)))[: shape[0]]


def _encoded(pixels: np.ndarray, name: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, name, **options)
    return out.getvalue()
