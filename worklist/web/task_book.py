"""The tasks of the list for the pages: how findings look, and the style sheet with their colours."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lungline.results.records import ResultRecord
from lungline.task.finding import Shape
from lungline.task.terms import FindingTerms, TaskTerms
from worklist.database import tasks
from worklist.database.models import WorklistEntry
from worklist.database.session import Database, DatabaseUnavailable
from worklist.tasks import KnownTasks, tasks_of

REREAD_SECONDS = 1.0
_MARKS: dict[str | None, str] = {"Unsure": "diamond"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a label is shown: its text, classes of its elements, and the shape of its mark."""

    label: str
    classes: str
    shape: Shape | str

    @classmethod
    def of(cls, task: TaskTerms | None, label: str | None) -> "Look":
        """The look of a finding of a task, or of a label that every task has."""
        finding = task and task.labelled(label)
        if task is None or finding is None:
            return cls(label or "Missing", (label or "Missing").replace(" ", "-"), _MARKS.get(label, "cross"))
        return cls(finding.label, f"finding {_name(task, finding)}", finding.shape)

    @classmethod
    def of_record(cls, record: ResultRecord) -> "Look":
        """The look of a result's label, as its own task has it."""
        return cls.of(record.task_terms, record.label)


class TaskBook:
    """The tasks that the database has, read again after a second: another process may have added some."""

    def __init__(self, database: Database, own: TaskTerms | None) -> None:
        self._database = database
        self._own = own
        self._tasks = tasks_of(own, ())
        self._read_at: float | None = None

    @property
    def tasks(self) -> KnownTasks:
        """The tasks; those of before while the database does not answer."""
        is_old = self._read_at is None or time.monotonic() - self._read_at >= REREAD_SECONDS
        return self._reread() if is_old else self._tasks

    def _reread(self) -> KnownTasks:
        self._read_at = time.monotonic()
        try:
            with self._database.reading() as session:
                self._tasks = tasks_of(self._own, tasks.stored(session))
        except DatabaseUnavailable:
            self._read_at = None
        return self._tasks

    def look(self, task: str, label: str | None) -> Look:
        """How a label of a task is shown."""
        return Look.of(self._tasks.of(task) or self._reread().of(task), label)

    def looks(self, task: str, labels: Sequence[str]) -> list[Look]:
        """How labels of a task are shown; of all tasks, the first that has it decides."""
        chosen = self._tasks.chosen(task)
        return [Look.of(next((each for each in chosen if each.labelled(label)), None), label) for label in labels]

    def words_of(self, entry: WorklistEntry) -> str:
        """What the reader of an entry says is there: a label, or those of several findings."""
        terms = self._tasks.of(entry.task)
        return terms.words_of(entry.findings_read or {}, entry.verdict) if terms else entry.verdict or ""

    @property
    def are_several(self) -> bool:
        """Whether the list has results of more than one task."""
        return len(self._tasks.tasks) > 1

    def shows_several(self, task: str) -> bool:
        """Whether a row of a list may show more than a label."""
        return len(self._tasks.chosen(task)) > 1 or any(each.is_many for each in self._tasks.chosen(task))

    def title(self, name: str) -> str:
        """What people call a task."""
        task = self._tasks.of(name)
        return task.title if task else name

    @property
    def sheet(self) -> str:
        """The style sheet: the colours of all findings, for the dark and the light page."""
        return "".join(line for task in self._tasks.tasks for line in _rules(task))

    @property
    def address(self) -> str:
        """Where the style sheet is; changes with it."""
        return f"/tasks.css?{hashlib.sha256(self.sheet.encode()).hexdigest()[:12]}"


def _name(task: TaskTerms, finding: FindingTerms) -> str:
    """The class of a finding: of lower-case letters, digits and hyphens, then of its own name."""
    return f"{'negative ' if finding.negative else ''}of-{task.name}-{finding.name}"


def _rules(task: TaskTerms) -> Iterator[str]:
    for finding in task.findings:
        light, dark = finding.colour
        name = _name(task, finding).rpartition(" ")[2]
        yield f'.{name} {{ --own: {dark}; }}\n[data-theme="light"] .{name} {{ --own: {light}; }}\n'
