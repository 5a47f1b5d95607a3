"""A decoded image, and the limits on files and images that are decoded."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lungline.errors import ImageRefused
from lungline.memory import MemoryBudget

if TYPE_CHECKING:
    from lungline.settings import Settings

Pixels = npt.NDArray[np.uint8]

CheckSize = Callable[[int, int], None]
"""Called with width and height as soon as they are read; raises ImageRefused before anything is decoded."""

# An X-ray has noise: lossless files have fewer than 10 pixels a byte, lossy ones of usable quality fewer than 100.
_PIXELS_A_BYTE = 200
_SMALL = 4_000_000  # pixels that cost too little to matter


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a file in bytes, on its pixels (width times height), and on its shortest side in pixels.

    They limit time as well: a decoder's work is bounded by the size that the header states, which is checked first.
    A million pixels take a few milliseconds, at most 20, and 100 as JPEG 2000.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    min_side: int = 28  # MedMNIST, the smallest public version of chest X-rays, has 28
    memory: MemoryBudget | None = field(default=None, compare=False, repr=False)
    """What decoding takes its memory from, so that several large images do not add up; None limits nothing."""

    @classmethod
    def from_settings(cls, settings: "Settings", memory: MemoryBudget | None = None) -> "Limits":
        """Return the limits in the settings."""
        return cls(settings.image_max_bytes, settings.image_max_pixels, settings.image_min_side, memory)

    def work(self) -> AbstractContextManager[None]:
        """A context in which memory is taken, and at whose end it is given back."""
        return nullcontext() if self.memory is None else self.memory.work()

    def take(self, size: int) -> None:
        """Take bytes of memory for the work of this thread; raises Busy."""
        if self.memory is not None:
            self.memory.take(size)

    def check_size(self, width: int, height: int) -> None:
        """Raises ImageRefused (too-many-pixels, too-small) for an image of this size."""
        if width * height > self.max_pixels:
            raise ImageRefused(
                "too-many-pixels",
                f"The image has {width} x {height} pixels, {width * height:,}; {self.max_pixels:,} are allowed.",
            )
        if min(width, height) < self.min_side:
            raise ImageRefused(
                "too-small",
                f"The image is {width} x {height} pixels; its shortest side must have at least {self.min_side}.",
            )

    def for_file(self, size: int, memory: Callable[[int], float] | None = None) -> CheckSize:
        """Return `check_size` for a file of `size` bytes; it also refuses too many pixels for these bytes (bomb).

        It takes the memory that decoding needs by a number of pixels, and the rest when it is called again with more.
        """
        taken = 0

        def check(width: int, height: int) -> None:
            nonlocal taken
            self.check_size(width, height)
            if width * height > max(_SMALL, size * _PIXELS_A_BYTE):
                raise ImageRefused(
                    "bomb", f"The file has {size:,} bytes for {width * height:,} pixels; no X-ray is packed so tightly."
                )
            needed = round(memory(width * height)) + size if memory else 0
            if needed > taken:
                self.take(needed - taken)
                taken = needed

        return check


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image: grey uint8 pixels (H, W), bright is dense.

    `width` and `height` are those of the original in pixels, upright; `pixels` may be smaller after a reduced decode.
    `colour` is the mean chroma of the original, 0 (grey) to 1: evidence that it is not an X-ray.
    `warnings` are for the person who reads the result; `notes` are about routine conversions. `not_frontal` is the
    reason, for a person, why the file's header rules out a frontal chest X-ray; None when it does not.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    colour: float
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    not_frontal: str | None = None

    @property
    def is_blank(self) -> bool:
        """Whether all pixels have the same value."""
        return bool(self.pixels.min() == self.pixels.max())
