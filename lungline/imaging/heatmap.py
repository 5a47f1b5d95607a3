"""Maps of the evidence for a diagnosis: small grids that are stored, and drawn as heatmaps when somebody looks.

A map is what the network gives, in 256 levels, with the part of the image that it lies over. So drawing needs neither
the model nor its preparation, and a map is a hundredth of a drawn heatmap.
"""

import base64
import binascii
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lungline.imaging.image import DecodedImage
from lungline.imaging.png import write_png

Floats = npt.NDArray[np.float32]
Region = tuple[float, float, float, float]
"""Left, top, right, bottom."""

HEATMAP_SIDE = 512
"""Most pixels on the longest side of a drawn heatmap."""
MOST_CELLS = 64  # a side


class EvidenceMap(BaseModel):
    """Where the evidence for an image's risk lies.

    `levels` are the bytes of `width` times `height` cells, row by row, as base64 text: 0 for no evidence to 255 for a
    risk of 1. `region` is the part of the upright image below the cells, in shares of its width and height.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1, le=MOST_CELLS)
    height: int = Field(ge=1, le=MOST_CELLS)
    levels: str = Field(max_length=4 * (MOST_CELLS * MOST_CELLS // 3 + 1), repr=False)
    region: Region

    @model_validator(mode="after")
    def _check_whole(self) -> "EvidenceMap":
        left, top, right, bottom = self.region
        if not (0 <= left <= right <= 1 and 0 <= top <= bottom <= 1):
            raise ValueError("the region does not lie within the image")
        try:
            count = len(base64.b64decode(self.levels, validate=True))
        except binascii.Error as exc:
            raise ValueError("the levels are not base64 text") from exc
        if count != self.width * self.height:
            raise ValueError(f"expected {self.width * self.height} levels, found {count}")
        return self

    @classmethod
    def of(cls, cam: Floats, region: Region) -> "EvidenceMap":
        """The map of a class activation map (h, w) in 0..1 over this part of the image."""
        levels = np.rint(np.clip(np.nan_to_num(cam), 0, 1) * 255).astype(np.uint8)
        if max(levels.shape) > MOST_CELLS:
            small = Image.fromarray(levels)
            small.thumbnail((MOST_CELLS, MOST_CELLS), Image.Resampling.BOX)
            levels = np.asarray(small)
        height, width = levels.shape
        text = base64.b64encode(levels.tobytes()).decode("ascii")
        # The values are ours, so nothing is left to check; this runs for every upload.
        values: dict[str, Any] = {"width": width, "height": height, "levels": text, "region": region}
        return cls.model_construct(**values)

    @property
    def cells(self) -> npt.NDArray[np.uint8]:
        """The levels as an array (height, width)."""
        return np.frombuffer(base64.b64decode(self.levels), np.uint8).reshape(self.height, self.width)


def draw(image: DecodedImage, evidence: EvidenceMap) -> bytes:
    """A PNG of the image in its own geometry, overlaid with its map; at most 512 pixels on the longest side."""
    height, width = image.pixels.shape
    size, scale = _size(width, height)
    grey = Image.fromarray(image.pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    heat = _heat(evidence, size, (width * scale, height * scale))
    opacity = heat.point(_OPACITY)
    heat.putpalette(_COLOURS)
    return write_png(np.asarray(Image.composite(heat.convert("RGB"), grey.convert("RGB"), opacity)))


def overlay(evidence: EvidenceMap, width: int, height: int) -> bytes:
    """A PNG of the colours alone, transparent where nothing is drawn, for an image of this size in pixels."""
    size, scale = _size(width, height)
    heat = _heat(evidence, size, (width * scale, height * scale))
    opacity = heat.point(_OPACITY)
    heat.putpalette(_COLOURS)
    colours = heat.convert("RGB")
    colours.putalpha(opacity)
    out = io.BytesIO()
    colours.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _size(width: int, height: int) -> tuple[tuple[int, int], float]:
    scale = min(1.0, HEATMAP_SIDE / max(width, height))
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def _heat(evidence: EvidenceMap, size: tuple[int, int], exact: tuple[float, float]) -> Image.Image:
    """Grey levels of this size; parts outside the map's region stay 0. `exact` is the size before it was rounded."""
    edges = zip(evidence.region, 2 * exact, strict=True)
    left, top, right, bottom = (round(share * side) for share, side in edges)
    box = max(1, right - left), max(1, bottom - top)
    seen = Image.fromarray(evidence.cells).resize(box, Image.Resampling.BICUBIC)
    heat = Image.new("L", size)
    heat.paste(seen, (left, top))
    return heat


def _ramp(*stops: tuple[int, int, int, int]) -> bytes:
    """Interpolate a palette of 256 colours between stops of grey level, red, green and blue."""
    at, *channels = zip(*stops, strict=True)
    return np.stack([np.interp(np.arange(256), at, channel) for channel in channels], axis=1).astype(np.uint8).tobytes()


# From blue through yellow to red: most people with a colour vision deficiency can read the order.
_COLOURS = _ramp((0, 0, 0, 140), (110, 40, 130, 230), (170, 250, 220, 60), (255, 220, 20, 20))
# Parts with little evidence are not coloured; the anatomy stays visible even under the strongest spot.
_OPACITY = [min(130, max(0, round((level - 60) * 0.75))) for level in range(256)]
