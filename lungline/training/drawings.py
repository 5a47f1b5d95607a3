"""Images of nothing that was X-rayed, drawn: noise, text, shapes, gradients, stripes, limbs, photographs, blanks."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]


def _grey(values: NDArray[np.floating]) -> Pixels:
    """Any range of numbers as grey levels."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-6) * 255).astype(np.uint8)


def _noise(size: int, rng: np.random.Generator) -> Pixels:
    spread = rng.choice([8, 30, 60, 120])
    return np.clip(rng.normal(rng.integers(40, 215), spread, (size, size)), 0, 255).astype(np.uint8)


def _clouds(size: int, rng: np.random.Generator) -> Pixels:
    """Noise whose power falls with frequency, as in skies, walls, grass and skin."""
    across, down = np.fft.rfftfreq(size)[None, :], np.fft.fftfreq(size)[:, None]
    fall = np.maximum(np.hypot(across, down), 1 / size) ** -rng.uniform(0.3, 2.2)
    spectrum = fall * np.exp(2j * np.pi * rng.random((size, size // 2 + 1)))
    field = _grey(np.fft.irfft2(spectrum, (size, size)))
    return field if rng.random() < 0.7 else np.where(field > 128, 255, 0).astype(np.uint8)


def _text(size: int, rng: np.random.Generator) -> Pixels:
    paper, ink = (245, 10) if rng.random() < 0.7 else (10, 245)
    page = Image.new("L", (256, 256), paper)
    pen = ImageDraw.Draw(page)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      ABCDEFGHIJ0123456789"))
    step = int(rng.integers(10, 32))
    for top in range(int(rng.integers(0, 30)), 256, step):
        pen.text((int(rng.integers(0, 20)), top), "".join(rng.choice(letters, 60)), fill=ink, font_size=step * 0.8)
    return np.asarray(page.resize((size, size), Image.Resampling.BILINEAR))


def _shapes(size: int, rng: np.random.Generator) -> Pixels:
    sheet = Image.new("L", (size, size), int(rng.integers(256)))
    pen = ImageDraw.Draw(sheet)
    for _ in range(int(rng.integers(1, 14))):
        left, top = rng.uniform(-0.2, 0.9, 2) * size
        wide, high = rng.uniform(0.05, 0.7, 2) * size
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((left, top, left + wide, top + high), fill=int(rng.integers(256)))
    return np.asarray(sheet.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 1, 3])))))


def _gradient(size: int, rng: np.random.Generator) -> Pixels:
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    a, b, c = rng.normal(0, 1, 3)
    return _grey(a * across + b * down + c * np.hypot(across, down) + rng.normal(0, 0.05, (size, size)))


def _stripes(size: int, rng: np.random.Generator) -> Pixels:
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, size / 2)
    wave = np.sin(2 * np.pi * (across * np.cos(angle) + down * np.sin(angle)) / period)
    if rng.random() < 0.5:
        wave *= np.sin(2 * np.pi * (down * np.cos(angle) - across * np.sin(angle)) / period)
    return _grey(np.sign(wave) if rng.random() < 0.5 else wave)


def _limb(size: int, rng: np.random.Generator) -> Pixels:
    """Bones in soft tissue on a dark film: an arm, a leg, a knee or a hand."""
    film = Image.new("L", (size, size), int(rng.integers(0, 30)))
    pen = ImageDraw.Draw(film)
    bones, middle, joint = int(rng.integers(1, 6)), rng.uniform(0.35, 0.65) * size, rng.uniform(0.3, 0.7) * size
    thick = rng.uniform(0.08, 0.22) * size / max(1, bones - 1)
    flesh, bone = int(rng.integers(50, 110)), int(rng.integers(150, 250))
    centres = middle + (np.arange(bones) - (bones - 1) / 2) * thick * rng.uniform(1.6, 2.6)
    pen.rectangle((centres[0] - 1.6 * thick, 0, centres[-1] + 1.6 * thick, size), fill=flesh)
    for centre in centres:
        gap = rng.uniform(0, 0.04) * size
        for top, bottom in ((-9.0, joint - gap), (joint + gap, size + 9.0)):
            pen.rounded_rectangle((centre - thick / 2, top, centre + thick / 2, bottom), thick / 2, fill=bone)
            end = bottom if top < 0 else top
            pen.ellipse((centre - 0.8 * thick, end - thick / 2, centre + 0.8 * thick, end + thick / 2), fill=bone)
    film = film.rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR, fillcolor=int(rng.integers(0, 30)))
    soft = np.asarray(film.filter(ImageFilter.GaussianBlur(size / 60)), np.float64)
    return np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)


def _photo(size: int, rng: np.random.Generator) -> Pixels:
    """Objects before a background, each with its own texture: what a photograph is to a network this small."""
    scene = _clouds(size, rng).astype(np.float64) * rng.uniform(0.3, 1)
    for _ in range(int(rng.integers(1, 5))):
        mask = Image.new("L", (size, size), 0)
        left, top = rng.uniform(-0.1, 0.7, 2) * size
        wide, high = rng.uniform(0.2, 0.8, 2) * size
        ImageDraw.Draw(mask).ellipse((left, top, left + wide, top + high), fill=255)
        inside = np.asarray(mask.rotate(rng.uniform(0, 180))) > 0
        texture = _clouds(size, rng) * rng.uniform(0.2, 0.8) + rng.uniform(0, 120)
        scene = np.where(inside, texture, scene)
    return np.clip(scene, 0, 255).astype(np.uint8)


def _blank(size: int, rng: np.random.Generator) -> Pixels:
    """A film that was not exposed, with dust, a border or a label."""
    sheet = Image.new("L", (size, size), int(rng.integers(256)))
    pen = ImageDraw.Draw(sheet)
    for _ in range(int(rng.integers(0, 4))):
        left, top = rng.uniform(0, 0.9, 2) * size
        pen.rectangle((left, top, left + rng.uniform(1, 0.2 * size), top + 3), fill=int(rng.integers(256)))
    grain = rng.normal(0, rng.choice([0.6, 2, 5]), (size, size))
    return np.clip(np.asarray(sheet) + grain, 0, 255).astype(np.uint8)


DRAWINGS: tuple[Callable[[int, np.random.Generator], Pixels], ...] = (
    _noise,
    _clouds,
    _text,
    _shapes,
    _gradient,
    _stripes,
    _limb,
    _photo,
    _blank,
)
"""Each draws uint8 (size, size) at random."""
