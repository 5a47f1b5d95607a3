"""The terms of the data contract: what must hold of a prepared data set, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lungline.datasets.dataset import CLASSES, SPLITS

# Fewer images than these make figures that nobody should read. The public data set's own val split has 8 a class.
FEWEST = {"train": 30, "val": 5, "test": 10}


@dataclass(frozen=True)
class Term:
    """One expectation: what must hold, why, and how Great Expectations says it.

    `where` limits it to rows with these values.
    """

    sentence: str
    reason: str
    expectation: str
    arguments: Mapping[str, Any]
    where: Mapping[str, Any] = field(default_factory=dict)


TERMS: tuple[Term, ...] = (
    Term(
        "every image must be readable",
        "An unreadable file is a hole in the data that nobody chose.",
        "ExpectColumnValuesToBeNull",
        {"column": "error"},
    ),
    Term(
        "every label must be known",
        f"The network has one output: {CLASSES[0]} is 0, {CLASSES[1]} is 1.",
        "ExpectColumnValuesToBeInSet",
        {"column": "label", "value_set": list(range(len(CLASSES)))},
    ),
    Term(
        "every split must be known",
        "An image in another split would be counted and never used.",
        "ExpectColumnValuesToBeInSet",
        {"column": "split", "value_set": list(SPLITS)},
    ),
    Term(
        "every name must be unique",
        "A name is how a reviewer finds the image again.",
        "ExpectColumnValuesToBeUnique",
        {"column": "name"},
    ),
    Term(
        "no image may be in two splits",
        "A model that has seen a test image is graded on its memory.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_image_in_other_split"},
    ),
    Term(
        "no patient may be in two splits",
        "Two pictures of one patient are nearly the same picture.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_patient_in_other_split"},
    ),
    Term(
        "no image may have both labels",
        "One of the two is wrong, and nobody knows which.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_image_with_other_label"},
    ),
    Term(
        "the shortest side must have at least 28 pixels",
        "Below that not even the smallest public form of chest X-rays lies; it is a thumbnail or an icon.",
        "ExpectColumnValuesToBeBetween",
        {"column": "shortest_side", "min_value": 28},
    ),
    Term(
        "no side may be more than four times the other",
        "A chest is about as wide as it is high: such a strip is a crop, a ruler or a scan line.",
        "ExpectColumnValuesToBeBetween",
        {"column": "longest_to_shortest_side", "max_value": 4},
    ),
    Term(
        "the grey levels of an image must span at least 32 of 256",
        "A blank or nearly blank image shows nothing, whatever its label says.",
        "ExpectColumnValuesToBeBetween",
        {"column": "grey_span", "min_value": 32},
    ),
    Term(
        "the mean grey level of an image must lie between 10 and 245",
        "All black or all white with a few letters is a failed exposure or an empty page.",
        "ExpectColumnValuesToBeBetween",
        {"column": "mean", "min_value": 10, "max_value": 245},
    ),
    *(
        Term(
            f"{split} must have at least {fewest} {name} images",
            "With fewer, chance decides the figures.",
            "ExpectTableRowCountToBeBetween",
            {"min_value": fewest},
            where={"split": split, "label": label},
        )
        for split, fewest in FEWEST.items()
        for label, name in enumerate(CLASSES)
    ),
    *(
        Term(
            f"pneumonia must be between 5 % and 95 % of {split}",
            "Beyond that, always giving the same answer looks like a good model.",
            "ExpectColumnMeanToBeBetween",
            {"column": "label", "min_value": 0.05, "max_value": 0.95},
            where={"split": split},
        )
        for split in SPLITS
    ),
)
