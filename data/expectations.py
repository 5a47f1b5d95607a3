"""The expectations of the data contract: what must be true of a prepared data set, and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lungline.datasets.dataset import SPLITS
from lungline.task.task import Task

# With fewer images than these, metrics mean nothing. The public data set's own val split has 8 of each class.
FEWEST = {"train": 30, "val": 5, "test": 10}


@dataclass(frozen=True)
class Expectation:
    """What must be true, why, and how Great Expectations checks it.

    `check` is the name of Great Expectations' class and `arguments` are its arguments. `where` limits the check to
    rows with these values.
    """

    sentence: str
    reason: str
    check: str
    arguments: Mapping[str, Any]
    where: Mapping[str, Any] = field(default_factory=dict)


_OF_EVERY_TASK = (
    Expectation(
        "every image must be readable",
        "Unreadable files leave gaps in the data at random places.",
        "ExpectColumnValuesToBeNull",
        {"column": "error"},
    ),
    Expectation(
        "every split must be known",
        "An image in any other split would be counted and never used.",
        "ExpectColumnValuesToBeInSet",
        {"column": "split", "value_set": list(SPLITS)},
    ),
    Expectation(
        "every name must be unique",
        "Reviewers find an image by its name.",
        "ExpectColumnValuesToBeUnique",
        {"column": "name"},
    ),
    Expectation(
        "no image may be in two splits",
        "A model that was trained on a test image is tested on its memory.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_image_in_other_split"},
    ),
    Expectation(
        "no patient may be in two splits",
        "Two images of one patient are nearly the same image.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_patient_in_other_split"},
    ),
    Expectation(
        "no image may have both labels",
        "One of the two labels is wrong.",
        "ExpectColumnValuesToBeNull",
        {"column": "same_image_with_other_label"},
    ),
    Expectation(
        "the shortest side must have at least 28 pixels",
        "The smallest public chest X-rays have 28 pixels; anything smaller is a thumbnail or an icon.",
        "ExpectColumnValuesToBeBetween",
        {"column": "shortest_side", "min_value": 28},
    ),
    Expectation(
        "no side may be more than four times the other",
        "A chest is about as wide as it is high: such a strip is a crop, a ruler or a scan line.",
        "ExpectColumnValuesToBeBetween",
        {"column": "longest_to_shortest_side", "max_value": 4},
    ),
    Expectation(
        "the grey levels of an image must span at least 32 of 256",
        "A blank or nearly blank image shows nothing, whatever its label.",
        "ExpectColumnValuesToBeBetween",
        {"column": "grey_span", "min_value": 32},
    ),
    Expectation(
        "the mean grey level of an image must lie between 10 and 245",
        "An image that is all black or all white is a failed exposure or an empty page.",
        "ExpectColumnValuesToBeBetween",
        {"column": "mean", "min_value": 10, "max_value": 245},
    ),
)


def expectations_of(task: Task) -> tuple[Expectation, ...]:
    """The contract of a task's data sets."""
    readable, *others = _OF_EVERY_TASK
    return readable, _labels_of(task), *others, *_counts_of(task), *_shares_of(task)


def _labels_of(task: Task) -> Expectation:
    outputs = {
        "binary": "The network has one output: {} is 0, {} is 1.",
        "one-of-several": "The network has an output for each finding.",
        "many-at-once": "The network has an output for each finding but {}.",
    }
    last = (1 << len(task.positives)) - 1 if task.kind == "many-at-once" else len(task.findings) - 1
    return Expectation(
        "every label must be known",
        outputs[task.kind].format(*task.names),
        "ExpectColumnValuesToBeBetween",
        {"column": "label", "min_value": 0, "max_value": last},
    )


def _counts_of(task: Task) -> Iterator[Expectation]:
    for split, fewest in FEWEST.items():
        for at, name in enumerate(task.names):
            yield Expectation(
                f"{split} must have at least {fewest} {name} images",
                "With fewer images, the metrics depend on chance.",
                "ExpectTableRowCountToBeBetween",
                {"min_value": fewest},
                where={"split": split, column_of(at): 1},
            )


def _shares_of(task: Task) -> Iterator[Expectation]:
    """Of two findings, neither may be rare; of more, none may be nearly everywhere."""
    both = task.kind == "binary"
    for at, finding in enumerate(task.findings):
        for split in SPLITS if at or not both else ():
            yield Expectation(
                f"{finding.label.lower()} must be {'between 5 % and 95 %' if both else 'at most 95 %'} of {split}",
                "Outside of that range, a model that always gives the same label looks good.",
                "ExpectColumnMeanToBeBetween",
                {"column": column_of(at), "min_value": 0.05 if both else 0.0, "max_value": 0.95},
                where={"split": split},
            )


def column_of(at: int) -> str:
    """The column that says by 0 and 1 whether an image has the finding at a place."""
    return f"finding_{at}"
