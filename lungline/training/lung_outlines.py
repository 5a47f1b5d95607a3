"""X-rays with outlined lungs, and the disguises in which the segmenter learns to find them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lungline.datasets.opening import open_dataset
from lungline.errors import DataError
from lungline.imaging.preparation import NORMALISATIONS, Preparation
from lungline.settings import load_settings

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outlined:
    """Images uint8 (N, side, side) with their lung fields, 0 or 1, of the same shape.

    `trust` (N,), 0 to 100, is the overlap of a field with the best-fitting outline that a person drew.
    """

    images: Pixels
    fields: Pixels
    patients: NDArray[np.str_]
    trust: NDArray[np.integer[Any]]


def read_outlined(data: str, outlines: Path, side: int) -> Outlined:
    """The images of a data set that have an outline, stretched to a square.

    The file holds `names` (N,), `lungs` (N, h, w / 8), packed bits, and `trust` (N,). Raises DataError when none of its
    names is in the data set.
    """
    dataset = open_dataset(data, settings=load_settings())
    preparation = Preparation(size=side)
    with np.load(outlines, allow_pickle=False) as stored:
        at = {str(name).rsplit("/", 1)[-1]: place for place, name in enumerate(stored["names"])}
        packed, trust = stored["lungs"], stored["trust"]
    outlined = [(example, at[file]) for example in dataset.examples if (file := example.name.rsplit("/", 1)[-1]) in at]
    if not outlined:
        raise DataError(f"No image of {dataset.name} is named in {outlines.name}.")
    images = [preparation.resize(preparation.decode(dataset.read(example))) for example, _ in outlined]
    fields = [_shrunk(np.unpackbits(packed[place], axis=-1), side) for _, place in outlined]
    patients = np.array([example.patient or example.name for example, _ in outlined])
    return Outlined(np.stack(images), np.stack(fields), patients, trust[[place for _, place in outlined]])


def _shrunk(field: Pixels, side: int) -> Pixels:
    grey = Image.fromarray(field * np.uint8(255)).resize((side, side), Image.Resampling.BOX)
    return (np.asarray(grey) >= 128).astype(np.uint8)


# How often the segmenter sees each normalisation: mostly that of the default recipe.
_SHARES = {"none": 0.15, "equalise": 0.15, "equalise-limited": 0.55, "stretch-percentiles": 0.15}


def disguise(images: Pixels, fields: Pixels, rng: np.random.Generator) -> tuple[Floats, Pixels]:
    """Each image and its field with another position, exposure and surroundings; images are float32 in 0..1."""
    changed, targets = np.empty_like(images), np.empty_like(fields)
    for at, (image, field) in enumerate(zip(images, fields, strict=True)):
        changed[at], targets[at] = _one(image, field, rng)
    result = np.empty(images.shape, np.float32)
    kinds = rng.choice(len(_SHARES), len(images), p=list(_SHARES.values()))
    for kind, name in enumerate(_SHARES):
        if (rows := np.flatnonzero(kinds == kind)).size:
            result[rows] = NORMALISATIONS[name](changed[rows])
    return result, targets


def _one(image: Pixels, field: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    size = len(image)
    matrix = _placement(rng, size)
    fill = int(rng.choice([0, int(image.mean()), int(rng.integers(256))]))
    picture = Image.fromarray(image).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )
    target = Image.fromarray(field).transform((size, size), Image.Transform.AFFINE, matrix)
    if rng.random() < 0.3:
        _tubes(picture, rng)
    pixels, mask = np.array(picture), np.array(target)
    if rng.random() < 0.35:
        _cover(pixels, mask, rng)
    return _exposed(pixels, rng), mask


def _placement(rng: np.random.Generator, size: int) -> tuple[float, ...]:
    """An affine map from output to input: tilt, scale, aspect and position; a few images lie on their side."""
    angle = rng.normal(0, 0.12) + (rng.choice([-1, 1]) * np.pi / 2 if rng.random() < 0.03 else 0.0)
    scale, aspect = np.exp(rng.normal(0.05, 0.18)), np.exp(rng.normal(0, 0.10))
    cos, sin, middle = np.cos(angle), np.sin(angle), (size - 1) / 2
    a, b, d, e = scale * aspect * cos, -scale * aspect * sin, scale / aspect * sin, scale / aspect * cos
    x, y = middle + rng.normal(0, 0.06, 2) * size
    return a, b, x - a * middle - b * middle, d, e, y - d * middle - e * middle


def _tubes(picture: Image.Image, rng: np.random.Generator) -> None:
    pen, size = ImageDraw.Draw(picture), picture.width
    for _ in range(int(rng.integers(1, 4))):
        points = rng.uniform(0.1, 0.9, 2) * size + np.cumsum(rng.normal(0, 0.15, (4, 2)), axis=0) * size
        pen.line([(float(x), float(y)) for x, y in points], fill=int(rng.integers(150, 256)), width=1)


def _cover(pixels: Pixels, mask: Pixels, rng: np.random.Generator) -> None:
    """Paint a frame or a rectangle over the image, as collimators, shields and implants do; nothing is lung there."""
    size = len(pixels)
    grey = int(rng.choice([0, int(pixels.mean()), int(rng.integers(256))]))
    if rng.random() < 0.7:
        edges = (rng.uniform(0, 0.2, 4) * size).astype(int)
        covered = np.ones(pixels.shape, bool)
        covered[edges[0] : size - edges[1], edges[2] : size - edges[3]] = False
    else:
        (top, left), (high, wide) = rng.integers(0, size - 12, 2), rng.integers(8, size * 2 // 3, 2)
        covered = np.zeros(pixels.shape, bool)
        covered[top : top + high, left : left + wide] = True
    pixels[covered], mask[covered] = grey, 0


def _exposed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    light = (pixels / 255.0) ** np.exp(rng.normal(0, 0.25))
    light = (light - 0.5) * np.exp(rng.normal(-0.1, 0.25)) + 0.5 + rng.normal(0, 0.06)
    light += rng.normal(0, 1, pixels.shape) * abs(rng.normal(0, 0.02))
    return (np.clip(light, 0, 1) * 255).astype(np.uint8)
