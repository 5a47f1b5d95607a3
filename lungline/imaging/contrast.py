"""Choose the range of values that is spread over the grey levels, where a file does not state one.

Pixels far outside, such as dead ones or burned-in text, must not take the contrast from all others.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# The darkest and the brightest thousandth are markers, dead pixels and the edge of the collimator.
_TAIL = 0.001
# If there are more of them than that, they are far from the range of all other pixels.
_CORE_TAIL = 0.02
_FARTHEST = 0.25  # in ranges of the core
_FEW = 500  # pixels of which none is left out


def spread_levels(values: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Return a grey level, 0 to 255, for each value, given how many pixels have it."""
    order = np.argsort(values, kind="stable")
    ordered, below = values[order], np.cumsum(counts[order])
    if not below[-1]:
        return np.zeros(len(values))
    low, high = _range(ordered, below, _TAIL)
    core_low, core_high = _range(ordered, below, _CORE_TAIL)
    core = core_high - core_low
    if core > 0:
        low, high = max(low, core_low - _FARTHEST * core), min(high, core_high + _FARTHEST * core)
    if high <= low:
        present = values[counts > 0]
        low, high = float(present.min()), float(present.max())
    return np.clip((values - low) / (high - low if high > low else 1.0), 0, 1) * 255


def _range(ordered: Floats, below: npt.NDArray[np.int64], tail: float) -> tuple[float, float]:
    """Return the values with `tail` of all pixels outside at either end, at least one if there are many."""
    total = int(below[-1])
    outside = max(int(total * tail), int(total > _FEW))
    low = ordered[np.searchsorted(below, outside, side="right")]
    high = ordered[min(len(ordered) - 1, np.searchsorted(below, total - outside))]
    return float(low), float(high)
