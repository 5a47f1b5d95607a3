"""The findings of one result as the viewer shows them: the model's answers, and the buttons of its reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lungline.results.readings import NOT_USABLE
from lungline.results.records import REFUSED, UNSURE, FindingFacts, ResultRecord
from lungline.task.reading import DEFAULT
from lungline.task.terms import FindingTerms, TaskTerms
from worklist.database.models import ReadingRow, WorklistEntry
from worklist.web.task_book import Look


@dataclass(frozen=True, slots=True)
class Choice:
    """A button of a reader, and the key that presses it."""

    label: str
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of a finding; `is_there` is where the reader's mark stands."""

    name: str
    key: str
    look: Look
    probability: float | None
    presence: str
    is_there: bool


@dataclass(frozen=True, slots=True)
class ShownFindings:
    """`terms` are those of the result's own record; `answers` are there where the task has several findings."""

    terms: TaskTerms
    label: str | None
    answers: tuple[Answer, ...]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, record: ResultRecord, entry: WorklistEntry, readings: Sequence[ReadingRow]) -> "ShownFindings":
        """Of a result and its readings, the latest first."""
        terms = record.task_terms
        last = next((each for each in readings if each.verdict is not None), None) if entry.read else None
        presences = (last.findings or {}) if last else None
        by_name = {each.name: each for each in record.findings}
        answers = (_answer(terms, finding, by_name.get(finding.name), presences) for finding in terms.positives)
        several = tuple(answers) if len(terms.positives) > 1 else ()
        return cls(terms, record.label, several, tuple(_choices(terms)))

    @property
    def asks_each(self) -> bool:
        """Whether the reader says of each finding whether it is there."""
        return self.terms.is_many

    @property
    def can_confirm(self) -> bool:
        """Whether there is one label that the reader may confirm."""
        return self.label not in (None, UNSURE, REFUSED) and not self.asks_each

    @property
    def positive(self) -> str:
        """What a risk above the thresholds means: the finding, or any of several."""
        positives = self.terms.positives
        return positives[0].label if len(positives) == 1 else "any finding"

    @property
    def is_own(self) -> bool:
        """Whether the task is another than the default one, so that it must be named."""
        return self.terms.name != DEFAULT

    def words_of(self, reading: ReadingRow) -> str:
        """The verdict of a reading, or all findings that it names."""
        return self.terms.words_of(reading.findings or {}, reading.verdict)

    def look(self, label: str | None) -> Look:
        """How a label of this result is shown."""
        return Look.of(self.terms, label)

    @property
    def negative_look(self) -> Look:
        """How what is there when nothing else is, is shown."""
        return self.look(self.terms.negative.label)

    @property
    def positive_look(self) -> Look:
        """How a risk above the thresholds is shown: as the finding of the label, else as the first."""
        finding = self.terms.labelled(self.label)
        return self.look(finding.label if finding and not finding.negative else self.terms.positives[0].label)


def _answer(
    terms: TaskTerms, finding: FindingTerms, model: FindingFacts | None, presences: Mapping[str, str] | None
) -> Answer:
    """The model's answer about a finding; the mark stands where the reader has set it, else where the model has."""
    presence = model.presence if model else ""
    is_there = (presence if presences is None else presences.get(finding.name)) == "present"
    look = Look.of(terms, finding.label)
    return Answer(finding.name, finding.key, look, model and model.probability, presence, is_there)


def _choices(terms: TaskTerms) -> list[Choice]:
    """The buttons with one verdict; where a reader says it of each finding, those that say it of all at once."""
    taken = {finding.key for finding in terms.findings}
    free = next((digit for digit in "123456789" if digit not in taken), "")
    findings = terms.findings[:1] if terms.is_many else terms.findings
    return [*(Choice(finding.label, finding.key) for finding in findings), Choice(NOT_USABLE, free)]
