"""Where an upload stands in the list: the most urgent first.

Pneumonia, then Unsure, then what could not be judged, then Normal; within each by the percents of its risk, and within
those the one that has waited longest. A whole number a row, so that an index holds the list in its order: a label is
a range of it.
"""

RANGES = {"Pneumonia": (1000, 1100), "Unsure": (2000, 2100), "Refused": (3000, 3000), "Normal": (4000, 4100)}
MISSING = 9000  # deleted or overwritten before it was read: nothing to look at


def priority(label: str | None, probability: float | None) -> int:
    """The place of a label and its risk, the smallest first."""
    if label is None:
        return MISSING
    first, last = RANGES[label]
    return max(first, last - round((probability or 0.0) * 100))
