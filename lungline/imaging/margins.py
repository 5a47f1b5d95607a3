"""Uniform margins around an image, which are not part of the X-ray: letterbox bars, padding and frames."""

import numpy as np
import numpy.typing as npt

from lungline.imaging.image import Pixels

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""

# Grey levels that a margin's pixels may differ by, and the share of a line's pixels that must stay within. A bar stays
# that flat through JPEG; the border of a collimated film does not, it has grain.
_FLAT, _SHARE = 4, 0.99
# JPEG rings up to a block's width into the bar where it meets the image.
_RINGING, _RINGING_SHARE, _BLOCK = 24, 0.95, 8
# Pixels of a line that are looked at: enough for the share.
_SAMPLES = 256
_LEAST_SIDE = 28


def without_margins(pixels: Pixels) -> Box:
    """The box of grey pixels (H, W) inside uniform margins of any grey level; the whole image when there are none.

    Margins may differ from side to side. An image that is uniform throughout, or of which hardly anything would
    remain, is returned whole.
    """
    height, width = pixels.shape
    left, top, right, bottom = box = (0, 0, width, height)
    while True:
        above, below = _ends(pixels[top:bottom, left:right])
        top, bottom = top + above, bottom - below
        before, after = _ends(pixels[top:bottom, left:right].T)
        left, right = left + before, right - after
        if min(right - left, bottom - top) < min(_LEAST_SIDE, height, width):
            return 0, 0, width, height
        if (left, top, right, bottom) == box:
            return box
        box = (left, top, right, bottom)


def _ends(pixels: Pixels) -> tuple[int, int]:
    """The number of uniform lines at the start and at the end."""
    first = _uniform_lines(pixels)
    return first, 0 if first == len(pixels) else _uniform_lines(pixels[::-1])


def _uniform_lines(pixels: Pixels) -> int:
    """The number of lines, from the first on, that belong to one uniform margin."""
    lines = pixels[:, :: max(1, pixels.shape[1] // _SAMPLES)]
    if not len(lines) or not lines.shape[1]:
        return 0
    level = int(np.sort(lines[0])[lines.shape[1] // 2])  # a tenth of the time of np.median
    if not _near(lines[:1], level, _FLAT, _SHARE)[0]:
        return 0
    count = _first_false(_near(lines, level, _FLAT, _SHARE))
    reach = min(_BLOCK, round(len(lines) * 0.04))
    return count + _first_false(_near(lines[count : count + reach], level, _RINGING, _RINGING_SHARE))


def _near(lines: Pixels, level: int, most: int, share: float) -> npt.NDArray[np.bool_]:
    """For each line, whether a share of its pixels is within `most` grey levels of `level`."""
    within = np.abs(lines.astype(np.int16) - level) <= most
    return np.asarray(np.count_nonzero(within, axis=1) >= share * lines.shape[1])


def _first_false(values: npt.NDArray[np.bool_]) -> int:
    return len(values) if values.all() else int(np.argmin(values))
