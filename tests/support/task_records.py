"""Results of several tasks as the predictor writes them: one of several findings, and many at once."""

from typing import Any

from lungline.results.records import FindingFacts, ResultRecord
from lungline.task.reading import load_task
from lungline.task.terms import TaskTerms, packaged_terms, terms_of
from tests.support.worklist_site import record

LOW, HIGH = 0.3, 0.7
MANY = terms_of(load_task("phantom-findings")).model_copy(update={"name": "chest-findings"})
"""The terms of a site's own task: no program has them but by its records."""


def terms_of_kind() -> TaskTerms:
    """The terms of the task pneumonia-kind."""
    terms = packaged_terms("pneumonia-kind")
    assert terms is not None
    return terms


def several(number: int, chances: dict[str, float], terms: TaskTerms = MANY, **changes: Any) -> ResultRecord:
    """A judged result of a task with several findings; `chances` are the probabilities of its positive findings."""
    answers = [(finding, chances.get(finding.name, 0.05)) for finding in terms.positives]
    risk = (
        min(0.99, sum(chance for _, chance in answers)) if not terms.is_many else max(chance for _, chance in answers)
    )
    there = [finding.name for finding, chance in answers if chance >= HIGH]
    best = max(answers, key=lambda answer: answer[1])
    label = terms.foremost(there).label if there and terms.is_many else best[0].label if there else "Unsure"
    if risk < LOW:
        label = terms.negative.label
    plain = record(number, risk, **({"key": f"{terms.name}/xray-{number}.jpeg"} | changes))
    facts = [
        FindingFacts(
            name=finding.name,
            label=finding.label,
            probability=chance,
            presence="present" if chance >= HIGH else "absent" if chance < LOW else "unsure",
        )
        for finding, chance in answers
    ]
    model = plain.model.model_copy(update={"name": terms.name})
    values = plain.model_dump() | {
        "task": terms.name,
        "terms": terms,
        "label": label,
        "findings": facts,
        "model": model,
    }
    return ResultRecord.model_validate(values)
