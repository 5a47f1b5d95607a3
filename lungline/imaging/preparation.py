"""Prepare images for the network, and locate its evidence in them. Training and serving share this code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from lungline.imaging.decoding import decode
from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.heatmap import EvidenceMap, draw
from lungline.imaging.image import DecodedImage, Limits, Pixels
from lungline.imaging.margins import Box, without_margins

Floats = npt.NDArray[np.float32]

# Images are normalised in blocks of this many pixels, so that a whole data set needs no second copy of itself.
_BLOCK = 4_000_000


@dataclass(frozen=True, slots=True)
class Preparation:
    """How an image becomes network input; stored in the model card.

    `size` is the side of the square input in pixels. The `geometry` "stretch" keeps the whole image and loses its
    aspect ratio; "centre-crop" does the opposite. `normalisation` is a key of NORMALISATIONS. `trim` cuts uniform
    margins first; packages of earlier releases do not.
    """

    size: int = 64
    geometry: Literal["stretch", "centre-crop"] = "stretch"
    normalisation: str = "none"
    trim: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1")
        if self.geometry not in ("stretch", "centre-crop"):
            raise ValueError(f"geometry is {self.geometry!r}; expected 'stretch' or 'centre-crop'")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation is {self.normalisation!r}; expected one of {sorted(NORMALISATIONS)}")

    def decode(
        self,
        data: bytes,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        header: DicomFile | None = None,
    ) -> DecodedImage:
        """Decode an image file at the scale that this preparation is defined for.

        Large JPEGs are decoded at a reduced scale, which changes pixels a little; setting the scale here keeps training
        and serving identical. Twice the input size leaves enough pixels for the final resize to average.
        """
        return decode(data, limits, at_least=2 * self.size, header=header)

    def resize(self, image: DecodedImage, inside: Box | None = None) -> Pixels:
        """Resize an image to the network's geometry: uint8 (size, size).

        `inside` is what `inside_margins` returned for the image, if that is known.
        """
        left, top, right, bottom = inside or self.inside_margins(image)
        box = _centre(right - left, bottom - top) if self.geometry == "centre-crop" else None
        # With the gap Pillow averages whole pixels first: several times faster, and equal to within a grey level.
        small = Image.fromarray(image.pixels[top:bottom, left:right]).resize(
            (self.size, self.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
        )
        return np.asarray(small)

    def region(self, image: DecodedImage, inside: Box | None = None) -> tuple[float, float, float, float]:
        """Return the part of the image that the network gets, as left, top, right, bottom in its pixels."""
        left, top, right, bottom = inside or self.inside_margins(image)
        if self.geometry == "stretch":
            return left, top, right, bottom
        inner = _centre(right - left, bottom - top)
        return left + inner[0], top + inner[1], left + inner[2], top + inner[3]

    def inside_margins(self, image: DecodedImage) -> Box:
        """The image without the margins that are cut; looking for them costs as much as the resize."""
        height, width = image.pixels.shape
        return without_margins(image.pixels) if self.trim else (0, 0, width, height)

    def normalise(self, pixels: Pixels) -> Floats:
        """Normalise uint8 (..., size, size) to float32 (..., size, size, 1) in 0..1, each image by itself."""
        flat = pixels.reshape(-1, *pixels.shape[-2:])
        result = np.empty(flat.shape, np.float32)
        step = max(1, _BLOCK // max(1, flat[0].size if len(flat) else 1))
        for start in range(0, len(flat), step):
            result[start : start + step] = NORMALISATIONS[self.normalisation](flat[start : start + step])
        return result.reshape(*pixels.shape, 1)

    def apply(self, image: DecodedImage, inside: Box | None = None) -> Floats:
        """Resize and normalise an image to network input: float32 (size, size, 1) in 0..1."""
        return self.normalise(self.resize(image, inside))


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the central square as left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _as_is(pixels: Pixels) -> Floats:
    return pixels.astype(np.float32) / np.float32(255)


def _equalise(pixels: Pixels) -> Floats:
    """Equalise histograms, exactly as Pillow's ImageOps.equalize does."""
    counts = _histograms(pixels)
    below = np.cumsum(counts, axis=1) - counts
    brightest = 255 - np.argmax(counts[:, ::-1] > 0, axis=1)
    step = np.take_along_axis(below, brightest[:, None], axis=1) // 255
    levels = np.clip((below + step // 2) // np.maximum(step, 1), 0, 255)
    # An image that is constant, or almost all at its brightest level, cannot be spread.
    levels = np.where(step > 0, levels, np.arange(256))
    return _look_up((levels / 255).astype(np.float32), pixels)


# The greatest share of an image that a single grey level counts with in a limited equalisation: four times its share
# when all levels are equally frequent. No level of the X-ray itself is much above that.
_MOST_OF_A_LEVEL = 4 / 256


def _equalise_limited(pixels: Pixels) -> Floats:
    """Equalise histograms, but no grey level counts for more than a few.

    A bar, a frame or a collimated border in one grey level would otherwise take the levels away from the lungs, or push
    them apart, and the same lungs would look different in another frame.
    """
    counts = np.minimum(_histograms(pixels), _MOST_OF_A_LEVEL * pixels[0].size)
    below = np.cumsum(counts, axis=1)
    levels = (below - counts / 2) / below[:, -1:]
    # A constant image has nothing to spread.
    flat = (counts > 0).sum(axis=1, keepdims=True) < 2
    return _look_up(np.where(flat, np.arange(256) / 255, levels).astype(np.float32), pixels)


def _stretch_percentiles(pixels: Pixels) -> Floats:
    """Spread grey levels from the 1st to the 99th percentile over 0..1, and clip the rest."""
    share = np.cumsum(_histograms(pixels), axis=1) / pixels[0].size
    low = np.argmax(share >= 0.01, axis=1)[:, None]
    high = np.argmax(share >= 0.99, axis=1)[:, None]
    levels = np.clip((np.arange(256) - low) / np.maximum(high - low, 1), 0, 1)
    levels = np.where(high > low, levels, np.arange(256) / 255)
    return _look_up(levels.astype(np.float32), pixels)


def _histograms(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Count the grey levels of each image: (N, H, W) to (N, 256)."""
    offsets = np.arange(len(pixels), dtype=np.int32)[:, None] * 256
    levels = pixels.reshape(len(pixels), -1) + offsets
    return np.bincount(levels.ravel(), minlength=256 * len(pixels)).reshape(-1, 256)


def _look_up(levels: Floats, pixels: Pixels) -> Floats:
    """Replace each image's pixels through its own table: (N, 256) and (N, H, W) to (N, H, W)."""
    offsets = np.arange(len(pixels), dtype=np.int32)[:, None, None] * 256
    return levels.ravel()[pixels + offsets]


NORMALISATIONS: dict[str, Callable[[Pixels], Floats]] = {
    "none": _as_is,
    "equalise": _equalise,
    "equalise-limited": _equalise_limited,
    "stretch-percentiles": _stretch_percentiles,
}
"""Functions that map grey levels to 0..1, by name: uint8 (N, H, W) with N >= 1 to float32 (N, H, W)."""


def evidence_map(image: DecodedImage, cam: Floats, preparation: Preparation, inside: Box | None = None) -> EvidenceMap:
    """The map of a class activation map `cam`, float (h, w) in 0..1 over the network's input."""
    height, width = image.pixels.shape
    left, top, right, bottom = preparation.region(image, inside)
    return EvidenceMap.of(cam, (left / width, top / height, right / width, bottom / height))


def heatmap_png(image: DecodedImage, cam: Floats, preparation: Preparation) -> bytes:
    """A PNG of the image in its own geometry, overlaid with the class activation map `cam`, as `evidence_map` takes it.

    The longest side is at most 512 pixels.
    """
    return draw(image, evidence_map(image, cam, preparation))
