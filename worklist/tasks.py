"""The tasks on the list: which labels there are, where they stand, and how they look."""

from collections.abc import Sequence
from dataclasses import dataclass

from lungline.errors import TaskError
from lungline.results.records import REFUSED, UNSURE, ResultRecord
from lungline.settings import Settings
from lungline.task.finding import Urgency
from lungline.task.reading import load_task
from lungline.task.terms import FindingTerms, TaskTerms, default_terms, terms_of

URGENT = (1000, 1100)
BANDS: dict[Urgency, tuple[int, int]] = {"urgent": URGENT, "soon": (1500, 1600), "routine": (2500, 2600)}
NEGATIVE = (4000, 4100)
"""Where findings stand on the list: Unsure ones between those that are soon due and routine ones."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows with a label stand on the list.

    `label` is None where nothing else stands there; `also` says that other rows may have the finding beside theirs.
    """

    first: int
    last: int
    label: str | None
    also: bool = False


@dataclass(frozen=True, slots=True)
class KnownTasks:
    """The tasks that the list has results of."""

    tasks: tuple[TaskTerms, ...]

    def of(self, name: str) -> TaskTerms | None:
        """The task with a name."""
        return next((task for task in self.tasks if task.name == name), None)

    def chosen(self, name: str) -> tuple[TaskTerms, ...]:
        """The task with a name; all of them for no name, or one that is not known."""
        task = self.of(name)
        return (task,) if task else self.tasks

    def positives(self, name: str = "") -> tuple[str, ...]:
        """The labels of what is looked for, without repetition."""
        labels = (finding.label for task in self.chosen(name) for finding in task.positives)
        return tuple(dict.fromkeys(labels))

    def negatives(self, name: str = "") -> tuple[str, ...]:
        """The labels of what is there when nothing else is, without repetition."""
        return tuple(dict.fromkeys(task.negative.label for task in self.chosen(name)))

    def positive_word(self, name: str = "") -> str:
        """What the counter of uploads with a finding is called."""
        labels = self.positives(name)
        return labels[0] if len(labels) == 1 else "With a finding"

    def place(self, label: str, name: str = "") -> Place | None:
        """Where the rows with a finding's label stand; None for what is no finding."""
        own = [(task, each) for task in self.chosen(name) for each in task.findings if each.label == label]
        if not own:
            return None
        bands = [band_of(finding) for _, finding in own]
        also = any(task.is_many and not finding.negative for task, finding in own)
        first, last = (URGENT if also else min(bands))[0], max(bands)[1]
        standing = {each.label for task in self.tasks for each in task.findings if band_of(each) in bands}
        is_alone = standing == {label} and len(set(bands)) == 1 and not also
        return Place(first, last, None if is_alone else label, also)


def band_of(finding: FindingTerms) -> tuple[int, int]:
    """The sort keys of a finding, from the highest risk to the lowest."""
    return NEGATIVE if finding.negative else BANDS[finding.urgency]


def labels_that_may_come(tasks: Sequence[TaskTerms]) -> tuple[str, ...]:
    """The labels that results of these tasks may have, those of the system last."""
    return (*dict.fromkeys(label for task in tasks for label in task.labels), UNSURE, REFUSED)


def urgencies_of(record: ResultRecord) -> set[Urgency]:
    """How urgent the findings are that are there."""
    findings = map(record.task_terms.labelled, record.present)
    return {finding.urgency for finding in findings if finding is not None}


def task_of(settings: Settings) -> TaskTerms | None:
    """The task that the settings name; None where its file is not at hand, as on a cluster."""
    try:
        return terms_of(load_task(settings.task))
    except TaskError:
        return None


def tasks_of(own: TaskTerms | None, stored: Sequence[TaskTerms]) -> KnownTasks:
    """The tasks that the database has, that of the settings first; of an empty one that of the settings alone."""
    fallback = own or default_terms()
    return KnownTasks(tuple(sorted(stored, key=lambda task: task.name != fallback.name)) or (fallback,))
