"""Where an upload stands in the list: the most urgent first.

Pneumonia, then Unsure, then what could not be judged, then Normal; within each by the tenths of its risk, and within
those the one that has waited longest. A whole number a row, so that an index holds the list in its order: a label is
a range of it.
"""

RANGES = {"Pneumonia": (10, 19), "Unsure": (20, 29), "Refused": (30, 30), "Normal": (40, 49)}
MISSING = 90  # deleted or overwritten before it was read: nothing to look at


def priority(label: str | None, probability: float | None) -> int:
    """The place of a label and its risk, 10 first."""
    if label is None:
        return MISSING
    first, last = RANGES[label]
    tenth = min(9, int((probability or 0.0) * 10))
    return first if first == last else last - tenth
