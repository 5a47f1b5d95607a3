"""The terms of a task: what people read, press and send about its findings.

A result record carries them, unless it is of the default task: whoever shows it or sends it on needs neither the
package nor the task file, in years to come too.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal, Self

from pydantic import Field, model_validator

from lungline.task.finding import Code, Colour, FindingName, Key, Label, Part, Sentence, Shape, Urgency
from lungline.task.reading import DEFAULT, default_task, load_task, packaged
from lungline.task.task import MOST_FINDINGS, Kind, Name, Task

Presence = Literal["present", "absent"]
_RANK: dict[Urgency, int] = {"urgent": 0, "soon": 1, "routine": 2}


class FindingTerms(Part):
    """A finding as people read it and other systems code it."""

    name: FindingName
    label: Label
    negative: bool = False
    colour: tuple[Colour, Colour]
    shape: Shape
    urgency: Urgency
    key: Key
    code: Code | None = None


class TaskTerms(Part):
    """A task as people read it; the first finding is the negative one."""

    name: Name
    title: Sentence
    kind: Kind
    warning: Sentence
    findings: tuple[FindingTerms, ...] = Field(min_length=2, max_length=MOST_FINDINGS)

    @model_validator(mode="after")
    def _check_findings(self) -> Self:
        if [finding.negative for finding in self.findings] != [True] + [False] * (len(self.findings) - 1):
            raise ValueError("expected the negative finding first, and only it")
        for field in ("name", "label", "key"):
            if len({getattr(finding, field) for finding in self.findings}) < len(self.findings):
                raise ValueError(f"expected another {field} for each finding")
        return self

    @property
    def negative(self) -> FindingTerms:
        """What is there when nothing else is."""
        return self.findings[0]

    @property
    def positives(self) -> tuple[FindingTerms, ...]:
        """The findings that count for the risk."""
        return self.findings[1:]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the findings, the negative first."""
        return tuple(finding.label for finding in self.findings)

    @property
    def is_many(self) -> bool:
        """Whether an image may have several of the findings."""
        return self.kind == "many-at-once"

    def labelled(self, label: str | None) -> FindingTerms | None:
        """The finding with a label; None for Unsure, Refused, and what is no label of this task."""
        return next((finding for finding in self.findings if finding.label == label), None)

    def foremost(self, names: Iterable[str]) -> FindingTerms:
        """The most urgent of the findings with these names; the negative one without any."""
        chosen = set(names)
        there = [finding for finding in self.positives if finding.name in chosen]
        return min(there, key=lambda finding: _RANK[finding.urgency]) if there else self.negative

    def words_of(self, presences: Mapping[str, str], verdict: str | None) -> str:
        """A reader's verdict, or the labels of all findings that a reading says are there, where there are several."""
        there = [finding.label for finding in self.positives if presences.get(finding.name) == "present"]
        return ", ".join(there) if len(there) > 1 else verdict or ""

    def presences(self, label: str) -> dict[str, Presence]:
        """Whether each positive finding is there, where a label says what is and nothing else is."""
        return self.presences_of([finding.name for finding in self.positives if finding.label == label])

    def presences_of(self, names: Iterable[str]) -> dict[str, Presence]:
        """Whether each positive finding is there, where those with these names are."""
        there = set(names)
        return {finding.name: "present" if finding.name in there else "absent" for finding in self.positives}


def terms_of(task: Task) -> TaskTerms:
    """The terms of a task."""
    findings = [finding.model_dump(include=set(FindingTerms.model_fields)) for finding in task.findings]
    values = task.model_dump(include={"name", "title", "kind", "warning"})
    return TaskTerms.model_validate(values | {"findings": findings})


@cache
def default_terms() -> TaskTerms:
    """The terms of the default task."""
    return terms_of(default_task())


def terms_to_keep(task: Task) -> TaskTerms | None:
    """What a record carries: the terms of its task, none of the default one, which every reader has."""
    return None if task.name == DEFAULT else _terms(task)


@cache
def _terms(task: Task) -> TaskTerms:
    return terms_of(task)


@cache
def packaged_terms(name: str) -> TaskTerms | None:
    """The terms of a task that comes with the package; None for any other."""
    return terms_of(load_task(name)) if name in packaged() else None
