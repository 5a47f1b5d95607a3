"""The shapes inside a chest phantom, as attenuation maps over a grid.

`x` runs from -1 to 1 from the image's left to its right, `y` downwards; the patient's right lung is on the left.
Maps are float32 of the grid's shape, 0 to 1 unless stated otherwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same in all images of one phantom patient; lengths in halves of the image's side."""

    chest: float  # half width of the rib cage
    apex: float  # height of the lungs' upper end
    dome: float  # height of the right diaphragm's top
    dome_step: float  # how much lower the left diaphragm is
    heart: float  # half width of the heart
    heart_shift: float  # how far the heart extends to the left
    thymus: float  # width of the upper mediastinum
    rib_gap: float  # distance from rib to rib
    rib_slope: float
    bone: float  # density of the bones
    fat: float  # thickness of soft tissue beside the ribs

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Patient":
        """A random patient."""
        return cls(
            chest=rng.uniform(0.66, 0.80),
            apex=rng.uniform(-0.78, -0.62),
            dome=rng.uniform(0.30, 0.50),
            dome_step=rng.uniform(-0.02, 0.09),
            heart=rng.uniform(0.24, 0.38),
            heart_shift=rng.uniform(0.05, 0.14),
            thymus=rng.uniform(0.10, 0.20),
            rib_gap=rng.uniform(0.125, 0.165),
            rib_slope=rng.uniform(0.15, 0.45),
            bone=rng.uniform(0.7, 1.3),
            fat=rng.uniform(0.05, 0.16),
        )


def edge(distance: Map, softness: float) -> Map:
    """1 where `distance` is positive, 0 where negative, and a soft step of that width between."""
    return 0.5 + 0.5 * np.tanh(distance / np.float32(2 * softness))


def bump(distance: Map, width: float) -> Map:
    """A Gaussian ridge along distance 0."""
    return np.exp(-((distance / np.float32(width)) ** 2))


def body(patient: Patient, x: Map, y: Map) -> Map:
    """Thickness of neck, shoulders and trunk."""
    side = patient.chest + patient.fat
    heights = (-1.6, -1.0, -0.86, -0.70, -0.45, 0.1, 0.7, 1.6)
    widths = (0.24, 0.25, 0.42, side + 0.12, side + 0.08, side, side - 0.02, side)
    half = np.interp(y, heights, widths).astype(np.float32)
    inside = edge(half - np.abs(x), 0.012)
    return inside * np.sqrt(np.clip(1.25 - (x / (half + 0.05)) ** 2, 0.1, None))


def arms(patient: Patient, x: Map, y: Map, spread: float) -> Map:
    """Upper arms and shoulder joints; with `spread` 0 they are at the body, with 1 they point away."""
    across = np.abs(x) - (patient.chest + patient.fat + 0.13 + spread * (y + 0.75))
    limb = np.sqrt(np.clip(1 - (across / 0.14) ** 2, 0, None)) * edge(y + 0.82, 0.03)
    return limb * np.float32(0.45) + bump(across, 0.045) * edge(y + 0.72, 0.02) * np.float32(0.25 * patient.bone)


def lung(patient: Patient, x: Map, y: Map, side: int) -> Map:
    """Air of one lung; `side` is -1 for the patient's right (the image's left), 1 for the left."""
    out = x * np.float32(side)
    dome = patient.dome + (patient.dome_step if side > 0 else 0.0)
    centre, half = (patient.apex + dome + 0.25) / 2, (dome + 0.25 - patient.apex) / 2
    along = (y - centre) / half
    reach = (patient.chest - 0.1) / 2 * (1 + 0.22 * np.clip(along, -1, 0.6))
    shape = 1 - np.abs((out - 0.08 - reach) / reach) ** 2.6 - np.abs(along) ** 3.2
    # A lung is thin at its rim, so its air fades there; only the diaphragm is sharp.
    return (
        edge(shape - 0.12, 0.09) * (0.72 + 0.28 * np.clip(shape, 0, 1)) * edge(diaphragm(patient, x, side) - y, 0.014)
    )


def diaphragm(patient: Patient, x: Map, side: int) -> Map:
    """Height of one half of the diaphragm over `x`: a dome that falls to the ribs."""
    top = patient.dome + (patient.dome_step if side > 0 else 0.0)
    return top + np.float32(0.95) * (x * side - patient.chest * 0.46) ** 2


def heart(patient: Patient, x: Map, y: Map) -> Map:
    """Heart, great vessels and thymus."""
    low = patient.dome - 0.10
    across, along = x - patient.heart_shift, y - low
    tilted, upright = across * 0.86 - along * 0.5, along * 0.86 + across * 0.5
    muscle = edge(1 - (tilted / (patient.heart * 1.1)) ** 2 - (upright / (patient.heart * 0.8)) ** 2, 0.10)
    # From the vessels at the top the shade widens evenly into the heart.
    width = patient.thymus * (0.75 + 0.9 * np.clip((y - patient.apex) / (low - patient.apex), 0, 1.2) ** 2)
    vessels = edge(width - np.abs(x - 0.03 * (y + 1)), 0.025) * edge(y - patient.apex + 0.05, 0.08)
    return np.maximum(muscle, vessels * 0.92)


def spine(x: Map, y: Map, gap: float) -> Map:
    """The vertebral column with its discs."""
    column = edge(0.075 - np.abs(x), 0.012)
    return column * (0.75 + 0.25 * np.sin(y * np.float32(2 * np.pi / (gap * 0.85)))) + 0.5 * bump(
        np.abs(x) - 0.075, 0.012
    )


def ribs(patient: Patient, x: Map, y: Map) -> Map:
    """Rear ribs, which fall outwards a little, and front ribs, which fall inwards steeply."""
    out = np.abs(x)
    cage = edge(patient.chest - out, 0.02) * edge(y - patient.apex + 0.02, 0.03) * edge(0.62 - y, 0.1)
    gap = np.float32(patient.rib_gap)
    rear = _bands(y - patient.rib_slope * out + 0.55 * out**2 * (1 + patient.rib_slope), gap, 0.26)
    front = _bands(y + 0.95 * (out - 0.55) ** 2 + 0.55 * out, gap * 1.15, 0.20) * edge(out - 0.24, 0.03)
    wall = bump(out - patient.chest + 0.02, 0.03)
    return cage * (rear + 0.55 * front) + 0.35 * wall * edge(y - patient.apex, 0.1) * edge(0.5 - y, 0.1)


def _bands(phase: Map, gap: np.float32, width: float) -> Map:
    """Repeated bands with denser rims, as hollow bones look."""
    off = np.abs((phase / gap) % 1 - 0.5)
    return edge(width - off, 0.025) * 0.7 + bump(off - width, 0.05) * 0.5


def clavicles(patient: Patient, x: Map, y: Map, lift: float) -> Map:
    """Both collar bones."""
    out = np.abs(x)
    line = y - (patient.apex + 0.11) + lift * out + 0.06 * np.sin(out * 7)
    return edge(0.024 - np.abs(line), 0.008) * edge(out - 0.07, 0.02) * edge(patient.chest + 0.08 - out, 0.03)


def hila(x: Map, y: Map, strength: float) -> Map:
    """The shade of the vessels' roots beside the heart, 0 to `strength`."""
    shade = np.zeros_like(x)
    for side in (-1, 1):
        shade += np.exp(-(((x - side * 0.17) / 0.10) ** 2) - ((y + 0.04) / 0.16) ** 2)
    return shade * np.float32(strength)
