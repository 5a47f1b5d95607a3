"""A task: what the images are, the findings that a model looks for, and what people read, press and send about them.

A task file (`task.toml`) holds one. `lungline task new NAME` writes one with a comment above each field, which is the
field's description here.
"""

import re
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lungline.settings_blocks import GateSettings
from lungline.task.finding import Finding, Images, Part, Sentence, Targets, Use, Words, like, words_of

Kind = Literal["binary", "one-of-several", "many-at-once"]
Uncertain = Literal["absent", "present", "left out"]

OWN_LABELS = ("Unsure", "Refused", "Set aside", "Not usable", "Missing")
"""Labels that every task has; a finding needs another."""
MOST_FINDINGS = 30
OTHER_KIND = "unknown"

Name = Annotated[
    str,
    like(
        re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]"),
        "expected 2 to 40 lower-case letters, digits and hyphens, such as rib-fracture",
    ),
]


class Task(Part):
    """A task. The first finding is the negative one; the risk of an image is the probability of anything else."""

    schema_version: Literal[1] = Field(default=1, description="Version of this format.")
    name: Name = Field(description="Name in the registry, in buckets and on the cluster.")
    title: Sentence = Field(description="What people read above the list, and the registry shows.")
    kind: Kind = Field(
        description="binary: there or not. one-of-several: exactly one finding. many-at-once: any number of findings."
    )
    warning: Sentence = Field(description="What people read beside every result and report.")
    uncertain: Uncertain = Field(
        default="left out", description="What an uncertain label of a table means: absent, present or left out."
    )
    prefixes: Words = Field(
        default=(),
        description="Beginnings of keys in the uploads bucket; where there are any, the task takes no other uploads.",
    )
    images: Images = Field(
        default_factory=Images,
        description="What a DICOM header must say, besides a frontal chest X-ray; an empty list takes all.",
    )
    use: Use = Field(description="Intended use and limits, for the model card.")
    targets: Targets = Field(default_factory=Targets, description="What the thresholds of the risk aim at.")
    gate: GateSettings = Field(
        default_factory=GateSettings, description="What a model must reach before it is registered."
    )
    finding: tuple[Finding, ...] = Field(
        min_length=2, max_length=MOST_FINDINGS, description="The findings; the first is the negative one."
    )

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        _check_negative(self)
        _check_kind(self)
        for field in ("name", "label", "key", "number"):
            _check_unique(self, field)
        _check_names_of_data(self)
        return self

    def __hash__(self) -> int:
        """By its name: a task is a key of caches, and its tables cannot be hashed."""
        return hash(self.name)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, the negative first: a file has a table [[finding]] for each."""
        return self.finding

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the findings, the negative first."""
        return tuple(finding.name for finding in self.findings)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels of the findings, the negative first."""
        return tuple(finding.label for finding in self.findings)

    @property
    def negative(self) -> Finding:
        """What is there when nothing else is."""
        return self.findings[0]

    @property
    def positives(self) -> tuple[Finding, ...]:
        """The findings that count for the risk."""
        return self.findings[1:]

    @property
    def outputs(self) -> tuple[Finding, ...]:
        """The findings that the network has an output for, in their order.

        One of several needs one for the negative too, because they compete.
        """
        return self.findings if self.kind == "one-of-several" else self.positives

    def number_of(self, at: int) -> int:
        """The number of a finding, given by its place, in the labels of an .npz: a value, or a column of 0 and 1."""
        number = self.findings[at].number
        if number is not None:
            return number
        return at - 1 if self.kind == "many-at-once" else at

    def kind_of(self, label: int, name: str, folders: tuple[str, ...] = ()) -> str:
        """The subgroup of an image for the report, from its label, its file name and the folders that name its class.

        The negative finding's label for it; `unknown` where neither tells.
        """
        if not label:
            return self.negative.label.lower()
        kinds = {kind: words for at in self.present(label) for kind, words in self.findings[at].kinds.items()}
        file = name.rpartition("/")[2].lower()
        for kind, parts in kinds.items():
            if any(part.lower() in file for part in parts):
                return kind
        for words in map(words_of, folders):
            fitting = [kind for kind, parts in kinds.items() if words & {part.lower() for part in parts}]
            if len(fitting) == 1:
                return fitting[0]
        return OTHER_KIND

    def present(self, label: int) -> tuple[int, ...]:
        """The places of the findings that a label stands for.

        A label is the place of the finding. Where many may be there at once, bit k of it stands for finding k + 1.
        """
        if self.kind != "many-at-once":
            return (label,)
        return tuple(at + 1 for at in range(len(self.positives)) if label >> at & 1) or (0,)

    def label_for(self, present: tuple[int, ...] | frozenset[int]) -> int:
        """The label that stands for findings, given by their places; the negative gives way to any other."""
        if self.kind != "many-at-once":
            return max(present, default=0)
        return sum(1 << (at - 1) for at in present if at)

    def called(self, label: int) -> str:
        """What a label is called in names of images and in messages: NORMAL, or EFFUSION+NODULE."""
        return "+".join(self.names[at] for at in self.present(label))


def _check_negative(task: Task) -> None:
    negatives = [finding.name for finding in task.findings if finding.negative]
    if negatives != [task.findings[0].name]:
        raise ValueError(
            f"finding: expected negative = true in the first finding only; found {', '.join(negatives) or 'none'}"
        )


def _check_kind(task: Task) -> None:
    if task.kind == "binary" and len(task.findings) != 2:
        raise ValueError(f"kind: expected two findings where kind is binary; found {len(task.findings)}")
    if task.kind == "one-of-several" and len(task.findings) < 3:
        raise ValueError(f"kind: expected three findings or more where kind is {task.kind}; found {len(task.findings)}")


def _check_unique(task: Task, field: str) -> None:
    values: dict[Any, str] = {}
    for at, finding in enumerate(task.findings):
        value = getattr(finding, field)
        value = value.casefold() if isinstance(value, str) else value
        if value is not None and value in values:
            raise ValueError(
                f"finding.{at}.{field}: expected another than {values[value]} has; found {getattr(finding, field)!r}"
            )
        values[value] = finding.name
        if field == "label" and value in {label.casefold() for label in OWN_LABELS}:
            raise ValueError(
                f"finding.{at}.label: expected a label that the system does not use itself; found {finding.label!r}"
            )


def _check_names_of_data(task: Task) -> None:
    """A folder that fits two findings needs file names to decide; a column may mean one only."""
    folders: dict[frozenset[str], int] = {}
    columns: dict[str, int] = {}
    for at, finding in enumerate(task.findings):
        for column in finding.columns:
            other = columns.setdefault(column.casefold(), at)
            if other != at:
                names = f"{task.findings[other].name} and {finding.name}"
                raise ValueError(f"finding.{at}.columns: expected one finding for each; found {column!r} in {names}")
        for folder in finding.folders:
            other = folders.setdefault(words_of(folder), at)
            if other != at and not (finding.files and task.findings[other].files):
                names = f"{task.findings[other].name} and {finding.name}"
                raise ValueError(
                    f"finding.{at}.folders: expected `files` in both findings of a folder; found {folder!r} in {names}"
                )
