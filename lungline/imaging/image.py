"""A decoded image, and the limits on what may become one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused

if TYPE_CHECKING:
    from lungline.settings import Settings

Pixels = npt.NDArray[np.uint8]

CheckSize = Callable[[int, int], None]
"""Called with width and height as soon as they are known; raises to refuse the image before anything is decoded."""

# An X-ray has noise: lossless files hold fewer than 10 pixels a byte, lossy ones that can still be read fewer than 100.
_PIXELS_A_BYTE = 200
_SMALL = 4_000_000  # costs too little to care


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be decoded: bytes of the file, pixels (width times height), shortest side in pixels.

    Time is limited through them: each decoder's work is bounded by the pixels that the header claims, and refused
    before it starts. A million pixels take a few milliseconds, 20 at most, and 100 as JPEG 2000.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    min_side: int = 28  # the smallest public form of chest X-rays, PneumoniaMNIST, has 28

    @classmethod
    def from_settings(cls, settings: "Settings") -> "Limits":
        """The limits that the settings name."""
        return cls(settings.image_max_bytes, settings.image_max_pixels, settings.image_min_side)

    def check_size(self, width: int, height: int) -> None:
        """Raises ImageRefused (too-many-pixels, too-small) for an image of this size."""
        if width * height > self.max_pixels:
            raise ImageRefused(
                "too-many-pixels",
                f"The image has {width} x {height} pixels, {width * height:,}; at most {self.max_pixels:,} are judged.",
            )
        if min(width, height) < self.min_side:
            raise ImageRefused(
                "too-small",
                f"The image is {width} x {height} pixels; its shortest side must have at least {self.min_side}.",
            )

    def for_file(self, size: int) -> CheckSize:
        """`check_size` for a file of this many bytes, which also refuses more pixels than they can hold (bomb)."""

        def check(width: int, height: int) -> None:
            self.check_size(width, height)
            if width * height > max(_SMALL, size * _PIXELS_A_BYTE):
                raise ImageRefused(
                    "bomb", f"The file has {size:,} bytes for {width * height:,} pixels; no X-ray is packed so tightly."
                )

        return check


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image: grey uint8 pixels (H, W), bright is dense.

    `width` and `height` are the original's in pixels, upright; `pixels` may be smaller, when less was asked for.
    `colour` is the mean chroma of the original, 0 (grey) to 1: evidence that it is not an X-ray.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    colour: float
    warnings: tuple[str, ...]

    @property
    def is_blank(self) -> bool:
        """Whether all pixels are the same: there is nothing to judge."""
        return bool(self.pixels.min() == self.pixels.max())
