"""Convert images to grey, in bands of rows: the copies that a conversion needs are as large as a band."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from lungline.imaging.contrast import spread_levels
from lungline.imaging.image import Pixels

_COLOUR_THUMBNAIL = 32
_COLOURED = 0.01
# A conversion holds up to 20 bytes for each pixel of a band. Images of usual sizes are one band.
WHOLE_PIXELS, _BAND_PIXELS = 4_000_000, 1_000_000


class Grey(NamedTuple):
    """Grey pixels, the mean chroma before, warnings for the reader, and routine notes."""

    pixels: Pixels
    colour: float = 0.0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def grey_of(image: Image.Image) -> Grey:
    """Convert a Pillow image to grey."""
    if image.mode == "I;16":
        return spread(_sixteen_bits(image))
    if image.mode.startswith("I"):
        return spread(np.asarray(image))
    return grey_of_bands(_bands(image), image.size)


def grey_of_bands(bands: Iterable[Image.Image], size: tuple[int, int]) -> Grey:
    """Convert an image of 8 bits that comes in bands from above, each with `band_rows` rows but the last."""
    width, height = size
    pixels, row = np.empty((height, width), np.uint8), 0
    chroma, samples, is_transparent = 0, 0, False
    for each in bands:
        band = each
        if band.has_transparency_data:
            band, transparent = _on_black(band)
            is_transparent |= transparent
        if band.mode not in ("1", "L"):
            values = _chroma(band, size)
            chroma, samples = chroma + int(values.sum(dtype=np.int64)), samples + values.size
        grey = np.asarray(band if band.mode == "L" else _opaque(band).convert("L"))
        if len(grey) == height:
            pixels = grey  # one band, and no copy of it
            break
        pixels[row : row + len(grey)] = grey
        row += len(grey)
    colour = chroma / samples / 255 if samples else 0.0
    return Grey(pixels, colour, (*("transparency placed on black",) * is_transparent, *colour_warning(colour)))


def band_rows(size: tuple[int, int]) -> int:
    """The rows of a band: a multiple of the blocks that chroma is measured in."""
    width, height = size
    block = _block(size)
    return height if width * height <= WHOLE_PIXELS else max(1, _BAND_PIXELS // width // block) * block


def spread(pixels: npt.NDArray[np.integer]) -> Grey:
    """Spread values of more than 8 bits over the grey levels, without outliers."""
    low = int(pixels.min())
    flat, counts = pixels.reshape(-1), np.zeros(1 << 16, np.int64)
    levels = np.empty(flat.size, np.uint8)
    blocks = [slice(start, start + _BAND_PIXELS) for start in range(0, flat.size, _BAND_PIXELS)]
    for block in blocks:
        counts += np.bincount(_above(flat[block], low), minlength=len(counts))
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    table = np.rint(spread_levels(np.arange(len(counts), dtype=np.float64), counts)).astype(np.uint8)
    for block in blocks:
        levels[block] = table[_above(flat[block], low)]
    return Grey(levels.reshape(pixels.shape), notes=("16 bit reduced to 8",))


def mean_chroma(image: Image.Image) -> float:
    """Return the mean of max(R, G, B) - min(R, G, B), from 0 to 1, computed on a thumbnail."""
    return float(_chroma(image, image.size).mean() / 255)


def colour_warning(colour: float) -> tuple[str, ...]:
    """The warning about an image of this mean chroma."""
    return ("colour image converted to grey",) if colour > _COLOURED else ()


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    rows = band_rows(image.size)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _sixteen_bits(image: Image.Image) -> npt.NDArray[np.uint16]:
    pixels, row = np.empty((image.height, image.width), np.uint16), 0
    for band in _bands(image):
        pixels[row : row + band.height] = np.asarray(band)
        row += band.height
    return pixels


def _above(values: npt.NDArray[np.integer], low: int) -> npt.NDArray[np.uint16]:
    return (values.astype(np.int32) - low).astype(np.uint16)


def _opaque(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_black(image: Image.Image) -> tuple[Image.Image, bool]:
    """Composite the image on black; also return whether any pixel was transparent."""
    image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    alpha = image.getchannel("A")
    grey_or_rgb = image.convert("L" if image.mode == "LA" else "RGB")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return grey_or_rgb, False
    return Image.composite(grey_or_rgb, Image.new(grey_or_rgb.mode, image.size), alpha), True


def _block(size: tuple[int, int]) -> int:
    return max(1, min(size) // _COLOUR_THUMBNAIL)


def _chroma(band: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.int16]:
    """The chroma of the blocks of a band; `size` is that of the whole image."""
    if min(size) > _COLOUR_THUMBNAIL and band.mode not in ("P", "1"):
        band = band.reduce(_block(size))
    rgb = np.asarray(band.convert("RGB")).astype(np.int16)
    return rgb.max(axis=2) - rgb.min(axis=2)
