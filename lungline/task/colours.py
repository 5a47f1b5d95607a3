"""Colours of findings that can be read on the pages: WCAG's contrast of text with its ground."""

from collections.abc import Iterator

from lungline.task.task import Task

LEAST = 4.5
"""Contrast of normal text by WCAG 2.2, level AA."""
GROUNDS = {"light": "#f3f5f6", "dark": "#0e1215"}
"""The grounds of the worklist's pages."""


def contrast(first: str, second: str) -> float:
    """The contrast of two colours such as #b1271b: from 1, for the same, to 21."""
    darker, lighter = sorted(map(_luminance, (first, second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def faint_colours(task: Task) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The place of each colour that is hard to read, and a sentence about it.

    It is asked of files only: a model that was trained with such colours still loads.
    """
    for at, finding in enumerate(task.findings):
        for colour, (page, ground) in zip(finding.colour, GROUNDS.items(), strict=True):
            if contrast(colour, ground) < LEAST:
                expected = f"a contrast of {LEAST} or more with the {page} page"
                yield (
                    ("finding", at, "colour"),
                    f"expected {expected}; found {colour!r} with {contrast(colour, ground):.1f}",
                )
