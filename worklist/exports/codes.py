"""What other systems are told of a task's findings: whether each is there, and in words."""

from collections.abc import Iterator
from typing import Literal

from lungline.results.readings import NOT_USABLE, ReadingRecord
from lungline.results.records import UNSURE, ResultRecord
from lungline.task.terms import FindingTerms, TaskTerms

Presence = Literal["present", "absent", "unsure"]


def presences(
    record: ResultRecord, reading: ReadingRecord | None = None
) -> Iterator[tuple[FindingTerms, Presence | None, float | None]]:
    """Each positive finding, whether it is there, and its probability; the reader's word, else the model's.

    None where neither says it: the image is not usable, or has no result.
    """
    terms = record.task_terms
    answers = {each.name: each for each in record.findings}
    for finding in terms.positives:
        answer = answers.get(finding.name)
        chance = answer.probability if answer else record.probability if len(terms.positives) == 1 else None
        if reading is not None and reading.verdict is not None:
            yield finding, _read(terms, finding, reading), chance
        else:
            yield finding, answer.presence if answer else _labelled(terms, finding, record.label), chance


def positive_words(terms: TaskTerms) -> str:
    """What the risk is the probability of."""
    if len(terms.positives) == 1:
        return terms.positives[0].label.lower()
    return f"a finding of the task {terms.name}"


def read_as(terms: TaskTerms, reading: ReadingRecord) -> str:
    """The findings that a reader sees, else the verdict."""
    there = [each.label for each in terms.positives if reading.findings.get(each.name) == "present"]
    return ", ".join(there) or reading.verdict or ""


def _read(terms: TaskTerms, finding: FindingTerms, reading: ReadingRecord) -> Presence | None:
    if reading.verdict in (None, NOT_USABLE):
        return None
    return reading.findings.get(finding.name) or terms.presences(reading.verdict)[finding.name]


def _labelled(terms: TaskTerms, finding: FindingTerms, label: str | None) -> Presence | None:
    if label == UNSURE:
        return "unsure"
    return None if terms.labelled(label) is None else "present" if label == finding.label else "absent"
