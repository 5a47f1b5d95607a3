"""Results of several tasks as the predictor writes them: one of several findings, and many at once."""

from typing import Any

from lungline.results.records import FindingFacts, ResultRecord
from lungline.task.terms import TaskTerms, packaged_terms
from tests.support.worklist_site import record

_COLOURS = (("#14694a", "#74c9a2"), ("#b1271b", "#ff8a7a"), ("#1d4f91", "#8ab8ff"), ("#7a3e9d", "#d0a4f2"))
LOW, HIGH = 0.3, 0.7


def _finding(at: int, name: str, shape: str, urgency: str, code: str = "") -> dict[str, Any]:
    return {
        "name": name.upper(),
        "label": name,
        "negative": at == 0,
        "colour": (*_COLOURS, ("#8a5a00", "#ecbe5c"))[at],
        "shape": shape,
        "urgency": urgency,
        "key": str(at + 1),
        "code": {"scheme": "SCT", "value": code, "meaning": name} if code else None,
    }


MANY = TaskTerms.model_validate(
    {
        "name": "phantom-findings",
        "title": "Findings on drawn chest X-rays",
        "kind": "many-at-once",
        "warning": "For research, on drawn X-rays. Not a medical device.",
        "findings": [
            _finding(0, "Clear", "circle", "routine"),
            _finding(1, "Effusion", "triangle", "urgent", "60046008"),
            _finding(2, "Opacity", "square", "soon", "363346000"),
            _finding(3, "Nodule", "pentagon", "soon", "27925004"),
            _finding(4, "Device", "plus", "routine"),
        ],
    }
)


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
