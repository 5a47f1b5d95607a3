"""Ten ways in which an X-ray reaches us spoilt, at two strengths each: what robustness is measured with.

Each takes grey pixels uint8 (H, W) of any size, and a generator for what is left to chance; lengths are shares of the
shorter side, so that a large film is spoilt as much as a small one.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]

STRENGTHS = (1, 2)


def _grey(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _either(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _noise(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(pixels + rng.normal(0, (10, 22)[strength - 1], pixels.shape))


def _blur(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001 - one signature for all
    radius = (1.5, 3.0)[strength - 1] * min(pixels.shape) / 224
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _compression(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=(25, 8)[strength - 1])
    return np.asarray(Image.open(buffer))


def _resolution(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    height, width = pixels.shape
    scale = (72, 44)[strength - 1] / min(pixels.shape)
    small = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _exposure(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(pixels + float((35, 70)[strength - 1] * _either(rng)))


def _contrast(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    mean = pixels.mean()
    return _grey((pixels - mean) * (0.6, 0.35)[strength - 1] + mean)


def _gamma(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    return _grey(255 * (pixels / 255) ** ((1.6, 2.4)[strength - 1] ** _either(rng)))


def _tilt(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    angle = (8, 16)[strength - 1] * _either(rng)
    return np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))


def _framing(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Cut closer, and off the centre."""
    height, width = pixels.shape
    kept, off = (0.9, 0.8)[strength - 1], (0.04, 0.07)[strength - 1]
    left, top = ((1 - kept) / 2 + off * _either(rng)) * width, ((1 - kept) / 2 + off * _either(rng)) * height
    box = (max(0.0, left), max(0.0, top), min(width, left + kept * width), min(height, top + kept * height))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box))


def _aspect(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Narrower with black at the sides, or lower with black above and below."""
    height, width = pixels.shape
    share = 1 / (1.15, 1.35)[strength - 1]
    size = (round(width * share), height) if rng.random() < 0.5 else (width, round(height * share))
    film = Image.new("L", (width, height))
    place = ((width - size[0]) // 2, (height - size[1]) // 2)
    film.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), place)
    return np.asarray(film)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "compression": _compression,
    "resolution": _resolution,
    "exposure": _exposure,
    "contrast": _contrast,
    "gamma": _gamma,
    "tilt": _tilt,
    "framing": _framing,
    "aspect": _aspect,
}
