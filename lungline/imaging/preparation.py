"""Images on their way into the network and back out as heatmaps: the only such path, for training and serving alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from lungline.imaging.decoding import decode
from lungline.imaging.image import DecodedImage, Limits, Pixels
from lungline.imaging.png import write_png

Floats = npt.NDArray[np.float32]

# Images are normalised in blocks of this many pixels, so that a whole data set needs no second copy of itself.
_BLOCK = 4_000_000
_HEATMAP_SIDE = 512


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a picture becomes network input; stored in the model card.

    `size` is the side of the square input in pixels. `geometry` "stretch" keeps all of the picture and loses its
    aspect, "centre-crop" does the opposite. `normalisation` is a key of NORMALISATIONS.
    """

    size: int = 64
    geometry: Literal["stretch", "centre-crop"] = "stretch"
    normalisation: str = "none"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1")
        if self.geometry not in ("stretch", "centre-crop"):
            raise ValueError(f"geometry is {self.geometry!r}; expected 'stretch' or 'centre-crop'")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation is {self.normalisation!r}; expected one of {sorted(NORMALISATIONS)}")

    def decode(self, data: bytes, limits: Limits = Limits()) -> DecodedImage:  # noqa: B008 - frozen
        """The picture in an image file, at the scale that this preparation is defined for.

        Large JPEGs are decoded at a reduced scale, which changes pixels a little; fixing the scale here keeps training
        and serving alike. Twice the input size leaves the final resize something to average.
        """
        return decode(data, limits, at_least=2 * self.size)

    def resize(self, picture: DecodedImage) -> Pixels:
        """The picture in the network's geometry: uint8 (size, size)."""
        image = Image.fromarray(picture.pixels)
        box = _crop(picture.pixels.shape[1], picture.pixels.shape[0]) if self.geometry == "centre-crop" else None
        # The gap lets Pillow average whole pixels first: the same picture within a grey level, several times faster.
        small = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
        return np.asarray(small)

    def normalise(self, pixels: Pixels) -> Floats:
        """uint8 (..., size, size) to float32 (..., size, size, 1) in 0..1; each image on its own."""
        flat = pixels.reshape(-1, *pixels.shape[-2:])
        result = np.empty(flat.shape, np.float32)
        step = max(1, _BLOCK // max(1, flat[0].size if len(flat) else 1))
        for start in range(0, len(flat), step):
            result[start : start + step] = NORMALISATIONS[self.normalisation](flat[start : start + step])
        return result.reshape(*pixels.shape, 1)

    def apply(self, picture: DecodedImage) -> Floats:
        """Network input: float32 (size, size, 1) in 0..1."""
        return self.normalise(self.resize(picture))


def _crop(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square, as left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _as_is(pixels: Pixels) -> Floats:
    return pixels.astype(np.float32) / np.float32(255)


def _equalise(pixels: Pixels) -> Floats:
    """Histogram equalisation, to the grey level what Pillow's ImageOps.equalize gives."""
    counts = _histograms(pixels)
    below = np.cumsum(counts, axis=1) - counts
    brightest = 255 - np.argmax(counts[:, ::-1] > 0, axis=1)
    step = np.take_along_axis(below, brightest[:, None], axis=1) // 255
    levels = np.clip((below + step // 2) // np.maximum(step, 1), 0, 255)
    # A constant image, or one with almost all pixels at its brightest level, has nothing to spread.
    levels = np.where(step > 0, levels, np.arange(256))
    return _look_up((levels / 255).astype(np.float32), pixels)


def _stretch_percentiles(pixels: Pixels) -> Floats:
    """The grey levels between the 1st and the 99th percentile spread over 0..1; what lies outside is clipped."""
    share = np.cumsum(_histograms(pixels), axis=1) / pixels[0].size
    low = np.argmax(share >= 0.01, axis=1)[:, None]
    high = np.argmax(share >= 0.99, axis=1)[:, None]
    levels = np.clip((np.arange(256) - low) / np.maximum(high - low, 1), 0, 1)
    levels = np.where(high > low, levels, np.arange(256) / 255)
    return _look_up(levels.astype(np.float32), pixels)


def _histograms(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Counts of the grey levels of each image: (N, H, W) to (N, 256)."""
    offsets = np.arange(len(pixels), dtype=np.int32)[:, None] * 256
    levels = pixels.reshape(len(pixels), -1) + offsets
    return np.bincount(levels.ravel(), minlength=256 * len(pixels)).reshape(-1, 256)


def _look_up(levels: Floats, pixels: Pixels) -> Floats:
    """Each image's pixels replaced through its own table: (N, 256) and (N, H, W) to (N, H, W)."""
    offsets = np.arange(len(pixels), dtype=np.int32)[:, None, None] * 256
    return levels.ravel()[pixels + offsets]


NORMALISATIONS: dict[str, Callable[[Pixels], Floats]] = {
    "none": _as_is,
    "equalise": _equalise,
    "stretch-percentiles": _stretch_percentiles,
}
"""Ways to bring grey levels into 0..1, by name: uint8 (N, H, W) with N >= 1 to float32 (N, H, W)."""


def heatmap_png(picture: DecodedImage, cam: Floats, preparation: Preparation) -> bytes:
    """The picture in its own geometry with `cam` laid over it, as PNG bytes.

    `cam` is float (h, w) in 0..1 over the network's input. The longest side of the result is at most 512 pixels.
    """
    height, width = picture.pixels.shape
    scale = min(1.0, _HEATMAP_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = Image.fromarray(picture.pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    heat = _heat(cam, size, preparation)
    opacity = heat.point(_OPACITY)
    heat.putpalette(_COLOURS)
    return write_png(np.asarray(Image.composite(heat.convert("RGB"), grey.convert("RGB"), opacity)))


def _heat(cam: Floats, size: tuple[int, int], preparation: Preparation) -> Image.Image:
    """`cam` as grey levels in the picture's geometry; what the network did not see stays 0."""
    levels = np.rint(np.clip(np.nan_to_num(cam), 0, 1) * 255).astype(np.uint8)
    box = _crop(*size) if preparation.geometry == "centre-crop" else (0, 0, *size)
    left, top, right, bottom = (round(edge) for edge in box)
    seen = Image.fromarray(levels).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    heat = Image.new("L", size)
    heat.paste(seen, (left, top))
    return heat


def _ramp(*stops: tuple[int, int, int, int]) -> bytes:
    """A palette of 256 colours between stops of grey level, red, green and blue."""
    at, *channels = zip(*stops, strict=True)
    return np.stack([np.interp(np.arange(256), at, channel) for channel in channels], axis=1).astype(np.uint8).tobytes()


# Blue over yellow to red: the order is readable by most people with a colour vision deficiency.
_COLOURS = _ramp((0, 0, 0, 140), (110, 40, 130, 230), (170, 250, 220, 60), (255, 220, 20, 20))
# What carries little evidence stays as it was; even the strongest spot lets the anatomy show through.
_OPACITY = [min(130, max(0, round((level - 60) * 0.75))) for level in range(256)]
