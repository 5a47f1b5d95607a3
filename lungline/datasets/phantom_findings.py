"""What a phantom may have besides opacities: an effusion, nodules, a pacemaker; any of them beside any other."""

from typing import Literal

import numpy as np

from lungline.datasets.phantom_anatomy import Map, Patient, bump, edge

Extra = Literal["effusion", "nodule", "device"]
EXTRAS: tuple[Extra, ...] = ("effusion", "nodule", "device")

# Attenuation of metal, against 1 for the trunk: the film is white behind it.
_METAL = 3.0
# Points of a lead: they lie closer than it is wide.
_POINTS = np.linspace(0, 1, 48, dtype=np.float32)


def added(  # noqa: PLR0917 - a place in the patient's frame has two coordinates
    rng: np.random.Generator, extra: Extra, patient: Patient, air: Map, x: Map, y: Map
) -> Map:
    """The attenuation that a finding adds to a chest; `air` is what the lungs take away from it."""
    if extra == "device":
        return np.float32(_METAL) * _pacemaker(rng, patient, x, y)
    return air * (_fluid(rng, patient, x, y) if extra == "effusion" else _nodules(rng, patient, x, y))


def _fluid(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> Map:
    """Fluid at the base of one lung, which climbs along the ribs."""
    out = x * np.float32(1 if rng.random() < 0.5 else -1)
    level = patient.dome - rng.uniform(0.02, 0.30)
    climb = np.clip((out - 0.25) / (patient.chest - 0.25), 0, 1) ** 2 * np.float32(rng.uniform(0.15, 0.3))
    return edge(y - level + climb, 0.025) * edge(out, 0.02) * np.float32(rng.uniform(0.8, 1))


def _nodules(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> Map:
    """One to three round spots with an edge, unlike opacities."""
    spots = np.zeros_like(x)
    for _ in range(int(rng.integers(1, 4))):
        at_x = (1 if rng.random() < 0.5 else -1) * rng.uniform(0.24, patient.chest - 0.2)
        at_y = rng.uniform(patient.apex + 0.25, patient.dome - 0.1)
        distance = np.sqrt((x - at_x) ** 2 + (y - at_y) ** 2)
        spots = np.maximum(spots, edge(rng.uniform(0.055, 0.10) - distance, 0.012) * np.float32(rng.uniform(0.7, 1)))
    return spots


def _pacemaker(rng: np.random.Generator, patient: Patient, x: Map, y: Map) -> Map:
    """A flat can under a collar bone, and its lead to the heart."""
    side = 1 if rng.random() < 0.8 else -1
    at_x = side * rng.uniform(0.42, patient.chest - 0.18)
    at_y = patient.apex + rng.uniform(0.18, 0.32)
    wide, high = rng.uniform(0.09, 0.13), rng.uniform(0.07, 0.11)
    can = edge(1 - ((x - at_x) / wide) ** 4 - ((y - at_y) / high) ** 4, 0.06)
    bend, tip = (-0.05, at_y - rng.uniform(0.05, 0.2)), (rng.uniform(0.05, 0.25), patient.dome - rng.uniform(0.05, 0.2))
    nearest = np.full_like(x, 9)
    for share in _POINTS:
        along_x = at_x * (1 - share) ** 2 + 2 * bend[0] * share * (1 - share) + tip[0] * share**2
        along_y = at_y * (1 - share) ** 2 + 2 * bend[1] * share * (1 - share) + tip[1] * share**2
        nearest = np.minimum(nearest, (x - along_x) ** 2 + (y - along_y) ** 2)
    return np.maximum(can, bump(np.sqrt(nearest), 0.014) * np.float32(0.5))
