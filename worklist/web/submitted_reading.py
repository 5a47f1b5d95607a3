"""A reading as its form says it: the choice, the findings, and the result that was shown beside the buttons."""

import re
from dataclasses import dataclass, field

from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from lungline.results.readings import NOT_USABLE, Action, Verdict
from lungline.results.records import REFUSED, UNSURE, ResultRecord
from lungline.task.task import MOST_FINDINGS
from lungline.task.terms import Presence
from worklist.database import readings
from worklist.database.models import ResultRow
from worklist.database.readings import MAX_COMMENT, ReadingRefused

FINDINGS = "findings"
"""The choice of a form that names each finding that is there."""
_ID = re.compile(r"[0-9a-f]{32}")
_LONGEST = 32


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reader says of a result; `findings` of each positive finding, where the task has several."""

    action: Action
    verdict: Verdict | None = None
    findings: dict[str, Presence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubmittedReading:
    """The form of a reading."""

    id: str | None
    record: str
    label: str
    choice: str
    findings: tuple[str, ...]
    comment: str

    @classmethod
    def of(cls, form: FormData) -> "SubmittedReading":
        """Read a form. Raises ReadingRefused."""
        values = {name: value for name, value in form.items() if isinstance(value, str)}
        choice = values.get("say", "")
        if not 0 < len(choice) <= _LONGEST:
            raise ReadingRefused("Unknown reading.")
        if not values.get("record"):
            raise ReadingRefused("The form does not name the result that it is about. Reload the page and try again.")
        identifier = _ID.fullmatch(values.get("id", ""))
        names = tuple(value for value in form.getlist("finding") if isinstance(value, str))[:MOST_FINDINGS]
        comment = values.get("comment", "").strip()[:MAX_COMMENT]
        return cls(identifier and identifier[0], values["record"], values.get("label", ""), choice, names, comment)

    def is_stored(self, session: Session, identity: str, reader: str) -> bool:
        """Whether this very reading is stored already: its response was lost, or the button was pressed twice."""
        reading = readings.find(session, self.id) if self.id else None
        row = reading and session.get(ResultRow, reading.record)
        if reading is None or row is None:
            return False
        judgement = self.judgement(ResultRecord.model_validate_json(row.body))
        stored = (reading.identity, reading.reader, reading.action, reading.verdict, reading.comment)
        is_same = stored == (identity, reader, judgement.action, judgement.verdict, self.comment)
        return is_same and (reading.findings or {}) == judgement.findings

    def judgement(self, record: ResultRecord) -> Judgement:
        """What the form says of a result. Raises ReadingRefused for what its task does not know."""
        terms = record.task_terms
        if self.choice in ("read", "reopened"):
            return Judgement("reopened" if self.choice == "reopened" else "read")
        if self.choice == NOT_USABLE:
            return Judgement("corrected", NOT_USABLE)
        if self.choice == "confirmed":
            return _confirmed(record)
        if self.choice == FINDINGS and terms.is_many:
            if not set(self.findings) <= {finding.name for finding in terms.positives}:
                raise ReadingRefused("Unknown finding.")
            findings = terms.presences_of(self.findings)
            return _many(record, terms.foremost(self.findings).label, findings)
        if terms.labelled(self.choice) is None:
            raise ReadingRefused("Unknown reading.")
        if terms.is_many:
            return _many(record, self.choice, terms.presences(self.choice))
        # Choosing the predicted label confirms it, whichever button was used.
        action: Action = "confirmed" if self.choice == record.label else "corrected"
        return Judgement(action, self.choice, _each(record, self.choice))


def _each(record: ResultRecord, label: str) -> dict[str, Presence]:
    terms = record.task_terms
    return terms.presences(label) if len(terms.positives) > 1 else {}


def _confirmed(record: ResultRecord) -> Judgement:
    """The model's answers. Raises ReadingRefused where it has none."""
    terms, label = record.task_terms, record.label
    if label in (None, UNSURE, REFUSED):
        raise ReadingRefused(f"A result of {label or record.outcome} cannot be confirmed. Choose a reading.")
    if not terms.is_many:
        return Judgement("confirmed", label, _each(record, label))
    if any(each.presence == "unsure" for each in record.findings):
        raise ReadingRefused("The model is unsure of a finding. Say of each whether it is there.")
    return Judgement("confirmed", label, terms.presences_of(_present(record)))


def _many(record: ResultRecord, verdict: Verdict, findings: dict[str, Presence]) -> Judgement:
    """A reading of several findings: it confirms a result only where it agrees with it on each of them."""
    agrees = verdict == record.label and all(findings.get(each.name) == each.presence for each in record.findings)
    return Judgement("confirmed" if agrees else "corrected", verdict, findings)


def _present(record: ResultRecord) -> list[str]:
    return [each.name for each in record.findings if each.presence == "present"]
