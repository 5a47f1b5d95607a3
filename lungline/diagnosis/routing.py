"""Which model judges an upload, where several tasks are served side by side.

In this order:

1. the task that the event names, as the attribute `task` of its CloudEvent;
2. the task whose prefix the object's key begins with, the longest if several fit; a task's own name is always one;
3. of the tasks that the DICOM header does not rule out, the one of whose `images` it says most;
4. else the first model of a stack, or, of further ones, the first that asks nothing of the header.

A task with `prefixes` takes nothing but what 1 and 2 give it. An upload that no task is left for is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import ModelNotReady
from lungline.imaging.dicom_facts import DicomFacts, facts_of
from lungline.imaging.dicom_header import DicomFile
from lungline.task.finding import Images
from lungline.task.task import Task

NO_TASK = "The image is kept, and fits no task that is served here."


@dataclass(frozen=True, slots=True)
class Routing:
    """The models that serve, the first before the further ones; and what is known of an event beside its upload."""

    models: tuple[Diagnoser, ...]
    missing: frozenset[str] = frozenset()
    """Tasks whose model should serve, and is not loaded."""
    task: str | None = None
    """The task that the event names."""

    def of(self, key: str, header: DicomFile | None = None) -> Diagnoser | None:
        """The model for an upload, by its key and its DICOM header; None where it fits no task.

        Raises ModelNotReady for a task whose model is not loaded.
        """
        if self.task is not None:
            return self._named(self.task)
        if wanted := self._by_prefix(key):
            return self._named(wanted)
        free = [model for model in self.models if not _task(model).prefixes]
        if len(free) < 2:
            return free[0] if free else None
        facts = header and facts_of(header)
        return _by_header(free, facts) if facts else _by_task(free)

    def _named(self, task: str) -> Diagnoser | None:
        model = next((model for model in self.models if _task(model).name == task), None)
        if model is None and task in self.missing:
            raise ModelNotReady(f"The model of the task {task} is not loaded yet.")
        return model

    def _by_prefix(self, key: str) -> str | None:
        """The task with the longest prefix of a key. A task that serves alone needs no prefix of its own name."""
        several = len(self.models) + len(self.missing) > 1
        own = [(f"{name}/", name) for name in self.missing]
        for task in map(_task, self.models):
            own += [(prefix, task.name) for prefix in (*task.prefixes, *([f"{task.name}/"] if several else []))]
        fitting = [(len(prefix), name) for prefix, name in own if key.startswith(prefix)]
        return max(fitting)[1] if fitting else None


def _by_header(models: Sequence[Diagnoser], facts: DicomFacts) -> Diagnoser | None:
    scores = [_score(_task(model).images, facts) for model in models]
    return models[scores.index(max(scores))] if max(scores) >= 0 else None


def _score(images: Images, facts: DicomFacts) -> int:
    """How many of a task's demands a header meets; -1 where it says that the image is another."""
    score = 0
    for name, wanted in images:
        value = facts.values[name]
        if value and wanted:
            if value not in [" ".join(each.upper().split()) for each in wanted]:
                return -1
            score += 1
    return score


def _by_task(models: Sequence[Diagnoser]) -> Diagnoser:
    """The first model that asks nothing of a header, for a file that has none."""
    return next((model for model in models if not any(wanted for _, wanted in _task(model).images)), models[0])


def _task(model: Diagnoser) -> Task:
    return model.package.card.task
