"""Image statistics for drift monitoring, stored in the result record.

They are computed when an image is diagnosed, so that monitoring never opens an image again. None identifies a patient.
"""

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from lungline.imaging.image import DecodedImage, Pixels

# A sample of 64 x 64 pixels is enough for grey levels, and costs the same for images of any size.
_SAMPLE = 64
# Sharpness is measured in the centre, where the lungs are, at decoded resolution: shrinking would sharpen the image.
_CENTRE = 128

STATISTICS = (
    "mean",
    "contrast",
    "dark",
    "bright",
    "entropy",
    "sharpness",
    "grain",
    "border",
    "aspect",
    "side",
    "density",
)


class ImageStatistics(BaseModel):
    """The statistics of a diagnosed image.

    `statistics` are by name: `mean`, `contrast` (standard deviation), `dark` and `bright` (5th and 95th percentile) of
    grey levels 0 to 255, `entropy` in bits, `sharpness` (mean step between neighbours over the contrast), `grain`
    (mean second step over mean step: noise raises it, blur lowers it), `border` (the outer eighth less the rest, in
    contrasts), `aspect` (width by height), `side` (shortest side in pixels, as a power of two), `density` (bytes a
    pixel). `embedding` is the network's own summary, empty where the model gives none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statistics: dict[str, float]
    embedding: tuple[float, ...] = ()


def compute_statistics(
    image: DecodedImage, size: int, embedding: npt.NDArray[np.float32] | None = None
) -> ImageStatistics:
    """Compute the statistics of an image whose file has `size` bytes."""
    grey = _sample(image.pixels)
    shortest = min(image.width, image.height)
    values = {
        **_levels(grey),
        **_edges(_middle(image.pixels)),
        "border": _border(grey),
        "aspect": image.width / image.height,
        "side": float(np.log2(shortest)),
        "density": size / (image.width * image.height),
    }
    return ImageStatistics(
        statistics={name: float(f"{values[name]:.4g}") for name in STATISTICS},
        embedding=() if embedding is None else tuple(round(float(value), 3) for value in embedding),
    )


def _sample(pixels: Pixels) -> Pixels:
    """Return a regular sample of about 64 x 64 pixels."""
    height, width = pixels.shape
    return pixels[:: max(1, height // _SAMPLE), :: max(1, width // _SAMPLE)]


def _middle(pixels: Pixels) -> npt.NDArray[np.int16]:
    height, width = pixels.shape
    top, left = max(0, (height - _CENTRE) // 2), max(0, (width - _CENTRE) // 2)
    return pixels[top : top + _CENTRE, left : left + _CENTRE].astype(np.int16)


def _levels(grey: Pixels) -> dict[str, float]:
    counts = np.bincount(grey.ravel(), minlength=256)
    share = counts / grey.size
    levels = np.arange(256)
    mean = float(share @ levels)
    below = np.cumsum(share)
    held = share[counts > 0]
    return {
        "mean": mean,
        "contrast": float(np.sqrt(max(0.0, share @ (levels - mean) ** 2))),
        "dark": float(np.searchsorted(below, 0.05)),
        "bright": float(np.searchsorted(below, 0.95)),
        "entropy": float(-(held @ np.log2(held))),
    }


def _edges(middle: npt.NDArray[np.int16]) -> dict[str, float]:
    step = middle[:, 1:] - middle[:, :-1]
    second = step[:, 1:] - step[:, :-1]
    first = float(np.abs(step).mean())
    return {
        "sharpness": first / max(1.0, float(middle.std())),
        "grain": float(np.abs(second).mean()) / max(first, 0.01),
    }


def _border(grey: Pixels) -> float:
    """Return how much brighter the border is than the inside; it changes with cropping and equipment."""
    height, width = grey.shape
    across, down = max(1, width // 8), max(1, height // 8)
    inner = grey[down : height - down, across : width - across]
    total, inside = int(grey.sum(dtype=np.int64)), int(inner.sum(dtype=np.int64))
    rest = max(1, grey.size - inner.size)
    return ((total - inside) / rest - inside / max(1, inner.size)) / max(1.0, float(grey.std()))
