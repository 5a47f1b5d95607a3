"""Which model judges an upload, where several tasks are served side by side.

In this order:

1. the task that the event names, as the attribute `task` of its CloudEvent;
2. the task whose prefix the object's key begins with, the longest if several fit; a task's own name is always one;
3. of the tasks that the DICOM header does not rule out, the one of whose `images` it says most;
4. else the first model of a stack, or, of further ones, the first that asks nothing of the header.

A task with `prefixes` takes nothing but what 1 and 2 give it. An upload that no task is left for is kept. A task whose
model is not loaded counts like the others: its uploads wait, and no others do. So does one that another predictor of a
cluster serves: its uploads are handed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, ModelNotReady
from lungline.imaging.dicom_facts import DicomFacts, facts_of
from lungline.imaging.dicom_header import DicomFile
from lungline.task.finding import Images
from lungline.task.task import Task

NO_TASK = "The image is kept, and fits no task that is served here."

Served = Diagnoser | Task
"""A model, or the task of one that is not loaded here."""
AnyServed = TypeVar("AnyServed", bound=Served)


class ServedElsewhere(LunglineError):
    """An upload is of a task that another predictor of the cluster serves."""

    def __init__(self, task: str) -> None:
        super().__init__(f"The task {task} is served by another predictor.")
        self.task = task


@dataclass(frozen=True, slots=True)
class Routing:
    """The models that serve, the first before the further ones; and what is known of an event beside its upload."""

    models: tuple[Served, ...]
    """Those of this predictor; a task stands for a model that should serve it, and is not loaded."""
    missing: frozenset[str] = frozenset()
    """Models that should serve, and of which not even the task can be read."""
    task: str | None = None
    """The task that the event names."""
    elsewhere: tuple[Task, ...] = ()
    """Tasks that other predictors of a cluster serve."""
    lacks_first: bool = False
    """Whether the first model is among the missing: then rules 3 and 4 cannot be applied."""

    @property
    def loaded(self) -> tuple[Diagnoser, ...]:
        """The models that are loaded; the first of them speaks for uploads that fit no task."""
        return tuple(model for model in self.models if isinstance(model, Diagnoser))

    def of(self, key: str, header: DicomFile | None = None) -> Diagnoser | None:
        """The model for an upload, by its key and its DICOM header; None where it fits no task.

        Raises ModelNotReady for a task whose model is not loaded, and ServedElsewhere for one that another predictor
        serves.
        """
        if name := self.task or self._by_prefix(key):
            return self._named(name)
        if self.lacks_first:
            raise ModelNotReady("The first model is not loaded yet.")
        return self._here(_by_header(self._free, header and facts_of(header)))

    def before_fetching(self, key: str) -> Diagnoser | None:
        """The model that speaks for an upload whose header is not read yet, as that of an object that is gone.

        It need not be the one that judges, unless event or key say so. Raises what `of` raises where these do.
        """
        if name := self.task or self._by_prefix(key):
            return self._named(name)
        return _by_header([model for model in self.loaded if not _task(model).prefixes], None)

    @property
    def _free(self) -> list[Served]:
        """The models whose uploads need no prefix."""
        return [model for model in (*self.models, *self.elsewhere) if not _task(model).prefixes]

    def _named(self, task: str) -> Diagnoser | None:
        every = (*self.models, *self.elsewhere)
        model = next((model for model in every if _task(model).name == task), None)
        if model is None and task in self.missing:
            raise _not_loaded(task)
        return self._here(model)

    def _here(self, model: Served | None) -> Diagnoser | None:
        if not isinstance(model, Task):
            return model
        raise ServedElsewhere(model.name) if model in self.elsewhere else _not_loaded(model.name)

    def _by_prefix(self, key: str) -> str | None:
        """The task with the longest prefix of a key. A task that serves alone needs no prefix of its own name."""
        every = [_task(model) for model in (*self.models, *self.elsewhere)]
        several = len(every) + len(self.missing) + self.lacks_first > 1
        own = [(f"{name}/", name) for name in self.missing]
        for task in every:
            own += [(prefix, task.name) for prefix in (*task.prefixes, *([f"{task.name}/"] if several else []))]
        fitting = [(len(prefix), name) for prefix, name in own if key.startswith(prefix)]
        return max(fitting)[1] if fitting else None


def _not_loaded(task: str) -> ModelNotReady:
    return ModelNotReady(f"The model of the task {task} is not loaded yet.")


def _by_header(models: Sequence[AnyServed], facts: DicomFacts | None) -> AnyServed | None:
    """The model that a header says most of; without one, the first that asks nothing of it."""
    if len(models) < 2:
        return models[0] if models else None
    if facts is None:
        asks_nothing = (model for model in models if not any(wanted for _, wanted in _task(model).images))
        return next(asks_nothing, models[0])
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


def _task(model: Served) -> Task:
    return model if isinstance(model, Task) else model.package.card.task
