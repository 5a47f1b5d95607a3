"""Judge a lung field: whether it can be both lungs of an upright frontal chest X-ray.

A field that cannot is a segmenter's failure or an image without two lungs to see; either way the label is Unsure.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float32]

# Side of the grid that a heatmap and a lung field are compared on.
_GRID = 96


@dataclass(frozen=True, slots=True)
class FieldShape:
    """The shape of a lung field.

    `area` is its share of the image, `sureness` the mean of the field inside it, 0.5 to 1. `balance` is the share of
    the smaller side, left or right of the middle of its box. `fill` is its share of the box, `aspect` the box's height
    by its width, both in shares of the image's sides. `parting` is how much lower the field is in the middle, where
    spine and heart lie, than on both sides: 1 when it is parted in two, 0 when it is one piece.
    """

    area: float
    sureness: float
    balance: float
    fill: float
    aspect: float
    parting: float


# What each measure is called in a reason, its least and its greatest value. Of the outlines of 5,216 X-rays of children
# none lies outside any of them, and images that are framed otherwise have room.
LIMITS: dict[str, tuple[str, float, float]] = {
    "area": ("the share of the image that is lung", 0.12, 0.65),
    "sureness": ("the certainty of the outline", 0.8, 1.0),
    "balance": ("the share of the smaller lung", 0.3, 0.5),
    "fill": ("the share of their box that the lungs fill", 0.38, 0.8),
    "aspect": ("the height of the lungs by their width", 0.55, 1.8),
    "parting": ("the gap between the lungs", 0.5, 1.0),
}


def shape_of(field: Field) -> FieldShape | None:
    """The shape of a field (h, w) in 0..1; None when nothing in it is lung."""
    inside = field >= 0.5
    if not inside.any():
        return None
    columns, rows = inside.sum(axis=0), inside.sum(axis=1)
    (left, right), (top, bottom) = _ends(columns), _ends(rows)
    wide, high = right - left, bottom - top
    heights = columns[left:right] / high
    half, third = wide // 2, max(1, wide // 3)
    sides = float(heights[:half].sum()), float(heights[wide - half :].sum())
    middle = float(heights[third : wide - third].min()) if wide > 2 * third else float(heights.min())
    shoulders = min(float(heights[:third].max()), float(heights[wide - third :].max()))
    return FieldShape(
        area=float(inside.mean()),
        sureness=float(field[inside].mean()),
        balance=min(sides) / max(sum(sides), 1e-6),
        fill=float(inside[top:bottom, left:right].mean()),
        aspect=high / field.shape[0] / (wide / field.shape[1]),
        parting=1 - middle / max(shoulders, 1e-6),
    )


def problem_of(field: Field) -> str | None:
    """Why a field cannot be both lungs, in a few words; None when it can."""
    shape = shape_of(field)
    if shape is None:
        return "no lungs were found"
    for name, (words, least, most) in LIMITS.items():
        value = getattr(shape, name)
        if not least <= value <= most:
            return f"{words} is {value:.2f}, expected {least:g} to {most:g}"
    return None


def heat_within(cam: Field, field: Field) -> tuple[float, bool, float]:
    """Share of the heat inside the lungs, whether its strongest spot is there, and the lungs' share of the image.

    Both are (h, w) in 0..1 over the network's input; their sizes may differ. Without any heat the share is the lungs'.
    """
    heat, inside = _on_grid(np.clip(cam, 0, 1)), _on_grid(field) >= 0.5
    total = float(heat.sum())
    share = float(heat[inside].sum()) / total if total > 0 else float(inside.mean())
    return share, bool(inside.ravel()[int(np.argmax(heat))]), float(inside.mean())


def _on_grid(values: Field) -> Field:
    image = Image.fromarray(values.astype(np.float32)).resize((_GRID, _GRID), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _ends(counts: npt.NDArray[np.integer]) -> tuple[int, int]:
    """The first line that holds lung, and the line after the last."""
    held = np.flatnonzero(counts)
    return int(held[0]), int(held[-1]) + 1
