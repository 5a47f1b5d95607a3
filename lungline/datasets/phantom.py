"""Procedural frontal chest phantoms, with and without findings: images without a patient, free to share.

They replace real X-rays where there are none: in tests, load and a first run without internet. A network that is
trained on them says nothing about patients.
"""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from lungline.datasets import phantom_anatomy
from lungline.datasets.phantom_anatomy import Map, Patient
from lungline.datasets.phantom_findings import Extra, added

Pattern = Literal["lobar", "patchy", "perihilar"]
PATTERNS: tuple[Pattern, ...] = ("lobar", "patchy", "perihilar")

# Attenuation of a lung full of air, against 1 for the trunk; an opacity takes away a part of it.
_AIR = 0.62


def draw(
    rng: np.random.Generator,
    *,
    opacities: bool,
    size: int = 224,
    patient: Patient | None = None,
    pattern: Pattern | None = None,
    extras: Sequence[Extra] = (),
) -> npt.NDArray[np.uint8]:
    """One phantom, uint8 (size, size), bright is dense; `patient` and `pattern` are random unless given."""
    patient = patient or Patient.drawn(rng)
    x, y = _grid(rng, size)
    attenuation, air = _chest(rng, patient, x, y)
    if opacities:
        chosen = pattern or PATTERNS[int(rng.integers(len(PATTERNS)))]
        attenuation += _AIR * air * _opacity(rng, chosen, patient, x, y)
    for extra in extras:
        attenuation += added(rng, extra, patient, _AIR * air, x, y)
    return _film(rng, attenuation)


def jpeg(
    seed: int,
    *,
    opacities: bool,
    size: int = 224,
    patient: Patient | None = None,
    pattern: Pattern | None = None,
    extras: Sequence[Extra] = (),
) -> bytes:
    """The phantom of a seed as a JPEG file: the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    pixels = draw(rng, opacities=opacities, size=size, patient=patient, pattern=pattern, extras=extras)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _grid(rng: np.random.Generator, size: int) -> tuple[Map, Map]:
    """Coordinates of the pixels in the patient's frame: position, distance, aspect and tilt vary."""
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = np.meshgrid(steps, steps)
    angle = rng.normal(0, 0.045)
    scale, aspect = rng.uniform(0.84, 1.14), rng.uniform(0.92, 1.10)
    across = (across - rng.normal(0, 0.04)) * np.float32(scale * aspect)
    down = (down - rng.normal(0, 0.05)) * np.float32(scale / aspect)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * across + sin * down, cos * down - sin * across


def _chest(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> tuple[Map, Map]:
    """Attenuation of a healthy chest, and its air."""
    heart = phantom_anatomy.heart(patient, x, y)
    right, left = (phantom_anatomy.lung(patient, x, y, side) for side in (-1, 1))
    air = (right + left) * (1 - np.float32(0.92) * heart)
    texture = _clouds(rng, x.shape, cells=28) * 0.6 + _clouds(rng, x.shape, cells=9) * 0.4
    chest = phantom_anatomy.body(patient, x, y) * np.float32(0.92) + phantom_anatomy.arms(
        patient, x, y, rng.uniform(0.1, 0.6)
    )
    chest -= _AIR * air
    chest += np.float32(rng.uniform(0.05, 0.2)) * heart
    chest += np.float32(0.15 * patient.bone) * phantom_anatomy.ribs(patient, x, y)
    chest += np.float32(0.22 * patient.bone) * phantom_anatomy.spine(x, y, patient.rib_gap)
    chest += np.float32(0.16 * patient.bone) * phantom_anatomy.clavicles(patient, x, y, rng.uniform(-0.02, 0.2))
    # The liver and the tissue around it are denser than the chest wall.
    below = phantom_anatomy.edge(
        y - np.where(x < 0, phantom_anatomy.diaphragm(patient, x, -1), phantom_anatomy.diaphragm(patient, x, 1)), 0.02
    )
    chest += np.float32(rng.uniform(0.05, 0.2)) * below * phantom_anatomy.edge(patient.chest + 0.05 - np.abs(x), 0.05)
    # Vessels: a shade at the roots of the lungs, and a fine texture that thins out towards the ribs.
    chest += air * phantom_anatomy.hila(x, y, rng.uniform(0.05, 0.20)) * (1 + texture)
    chest += air * np.float32(rng.uniform(0.02, 0.06)) * texture
    chest += _stomach(rng, patient, x, y)
    return chest, air


def _stomach(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> Map:
    """A bubble of gas under the left diaphragm, in half of the phantoms."""
    if rng.random() > 0.5:
        return np.zeros_like(x)
    wide, high = rng.uniform(0.08, 0.2), rng.uniform(0.06, 0.14)
    top = patient.dome + patient.dome_step + high + 0.06
    inside = 1 - ((x - rng.uniform(0.2, 0.4)) / wide) ** 2 - ((y - top) / high) ** 2
    return np.float32(-rng.uniform(0.1, 0.3)) * phantom_anatomy.edge(inside, 0.15)


def _opacity(rng: np.random.Generator, pattern: Pattern, patient: Patient, x: Map, y: Map) -> Map:
    """The share of air that is replaced, 0 to 1."""
    if pattern == "patchy":
        place = _patchy(rng, patient, x, y)
    else:
        place = {"lobar": _lobar, "perihilar": _perihilar}[pattern](rng, x, y)
    grain = 1 + np.float32(0.25) * _clouds(rng, x.shape, cells=14) + np.float32(0.12) * _clouds(rng, x.shape, cells=32)
    return np.clip(place * grain, 0, 1) * np.float32(rng.uniform(0.5, 0.95))


def _lobar(rng: np.random.Generator, x: Map, y: Map) -> Map:
    """One lobe: sharp at its fissure, soft elsewhere."""
    side = 1 if rng.random() < 0.5 else -1
    out = x * np.float32(side)
    fissure = rng.uniform(-0.22, 0.10) + rng.uniform(-0.3, 0.3) * (out - 0.35)
    beyond = (y - fissure) * np.float32(1 if rng.random() < 0.7 else -1)
    depth = rng.uniform(0.25, 0.6)
    return (
        phantom_anatomy.edge(beyond, 0.02)
        * phantom_anatomy.edge(depth - beyond, 0.08)
        * phantom_anatomy.edge(out, 0.02)
    )


def _patchy(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> Map:
    """Several ill-defined spots in both lungs."""
    shade = np.zeros_like(x)
    for _ in range(int(rng.integers(5, 12))):
        side = -1 if rng.random() < 0.5 else 1
        at_x, at_y = side * rng.uniform(0.14, patient.chest - 0.1), rng.uniform(patient.apex + 0.15, patient.dome)
        radius = rng.uniform(0.08, 0.20)
        shade += np.exp(-(((x - at_x) ** 2 + (y - at_y) ** 2) / np.float32(radius**2))) * np.float32(
            rng.uniform(0.5, 1)
        )
    return np.clip(shade, 0, 1)


def _perihilar(rng: np.random.Generator, x: Map, y: Map) -> Map:
    """Streaks that spread from the roots of both lungs."""
    reach = np.float32(rng.uniform(0.22, 0.38))
    middle = np.float32(rng.uniform(-0.05, 0.12))
    near = np.exp(-(((np.abs(x) - 0.15) / reach) ** 2) - ((y - middle) / (reach * 1.3)) ** 2)
    streaks = np.abs(_clouds(rng, x.shape, cells=22))
    return near * np.clip(0.55 + streaks * np.float32(rng.uniform(0.3, 0.7)), 0, 1)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Map:
    """Smooth noise with about `cells` knots a side, mean 0, deviation near 1."""
    knots = rng.standard_normal((cells, cells)).astype(np.float32)
    cloud = Image.fromarray(knots).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(cloud) * np.float32(1.3)


def _film(rng: np.random.Generator, attenuation: Map) -> npt.NDArray[np.uint8]:
    """The image as detector and archive give it: exposure, curve, blur, noise, markers, tubes, collimation."""
    size = len(attenuation)
    # A film saturates slowly: the denser it is, the less a further layer changes.
    dark, contrast = rng.uniform(0.0, 0.16), rng.uniform(0.7, 2.2)
    layers = np.clip(attenuation - dark, 0, None)
    curve = (1 - np.exp(-contrast * layers)) / np.float32(1 - np.exp(-contrast * 1.35))
    grey = np.clip(curve * np.float32(rng.uniform(190, 262)) + np.float32(rng.uniform(0, 20)), 0, 255)
    grey += rng.standard_normal(grey.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 5))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    _mark(rng, image)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1) * size / 224))
    return _collimated(rng, np.array(image))


def _mark(rng: np.random.Generator, image: Image.Image) -> None:
    """Side letters at the margin; tubes and leads in a quarter of the phantoms."""
    size, pen = image.width, ImageDraw.Draw(image)
    if rng.random() < 0.8:
        text = ("R", "R", "L", "A-P", "SUPINE")[int(rng.integers(5))]
        at = rng.uniform(0.01, 0.10) * size, rng.uniform(0.02, 0.3) * size
        pen.text(at, text, fill=int(rng.integers(190, 256)), font_size=rng.uniform(0.035, 0.07) * size)
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.25 else 0):
        _lead(rng, pen, size)


def _lead(rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: int) -> None:
    """A curve over the chest that often ends in an electrode."""
    knots = np.cumsum(rng.normal(0, 0.22, (4, 2)), axis=0) + rng.uniform(0.2, 0.8, 2)
    share = np.linspace(0, 1, 24)[:, None]
    a, b, c, d = knots
    path = a * (1 - share) ** 3 + 3 * b * share * (1 - share) ** 2 + 3 * c * share**2 * (1 - share) + d * share**3
    grey = int(rng.integers(170, 250))
    pen.line([(float(px), float(py)) for px, py in path * size], fill=grey, width=max(1, round(size / 150)))
    if rng.random() < 0.6:
        pen.circle(
            (float(d[0]) * size, float(d[1]) * size), size * 0.018, outline=grey, width=max(1, round(size / 110))
        )


def _collimated(rng: np.random.Generator, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image, in some phantoms with the dark borders of the collimator."""
    if rng.random() < 0.3:
        grey = int(rng.integers(0, 25))
        for edge in range(4):
            width = int(max(0.0, rng.normal(0.0, 0.03)) * len(pixels))
            np.rot90(pixels, edge)[:width] = grey
    return pixels
