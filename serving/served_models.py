"""The models of one predictor: the first, and further ones of other tasks, each with its folder and its own champion.

A stack has a folder of further models; each folder in it that has a link `current` is a model, by the folder's name.
Models that come while the predictor runs are served too. A cluster has a predictor for each model instead, and the
first knows the tasks of the others.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lungline.diagnosis.routing import Routing
from lungline.home import models_in
from lungline.task.task import Task
from serving.beside import Beside
from serving.http import RouteNotFound
from serving.model_loader import ModelLoader

SCAN_SECONDS = 0.5
# Each takes some 20 MB; a folder that somebody fills must not take all memory.
MOST_MODELS = 16

_log = logging.getLogger(__name__)


class ServedModels:
    """A loader for each model; the first is served under `name`, and under the name in its card.

    `name` is also in the path that takes the events of all of them. A stack may be started with the name of a further
    model: then the first is served under the name in its card alone.
    """

    def __init__(
        self,
        name: str,
        first: ModelLoader,
        folder: Path | None = None,
        load: Callable[[Path], ModelLoader] | None = None,
        elsewhere: Callable[[], tuple[Task, ...]] = tuple,
        *,
        beside: Beside | None = None,
    ) -> None:
        """`folder` has the further models, and `load` makes the loader of one.

        `elsewhere` gives the tasks that other predictors serve now. With `beside` the first and only model gives second
        opinions beside the models of a stack.
        """
        self.name = name
        self.first = first
        self._folder = folder
        self._load = load
        self._elsewhere = elsewhere
        self._beside = beside
        self._further: dict[str, ModelLoader] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="further-models", daemon=True)

    def start(self) -> None:
        """Load the models, and keep watching for more."""
        self.first.start()
        if self._folder is not None:
            self._scan()
            self._thread.start()

    def stop(self) -> None:
        """Stop watching; the loaded packages keep serving."""
        self._stopping.set()
        for _, loader in self:
            loader.stop()

    def __iter__(self) -> Iterator[tuple[str, ModelLoader]]:
        """Names and loaders, the first before the further ones."""
        further = dict(self._further)
        named_as_another = self.name in further and self.first.ready
        yield self.first.current().package.card.name if named_as_another else self.name, self.first
        yield from further.items()

    def named(self, name: str | None) -> ModelLoader:
        """The loader of a model; None is that of the stack's own paths. Raises RouteNotFound."""
        name = name or self.name
        if loader := self._further.get(name):
            return loader
        if name == self.name or (self.first.ready and name == self.first.current().package.card.name):
            return self.first
        raise RouteNotFound(not_served(self))

    @property
    def ready(self) -> bool:
        """Whether loading each model was tried, and there is one that can judge.

        One that is refused or gone does not keep the others' uploads waiting, not even the first.
        """
        loaders = [loader for _, loader in self]
        return any(loader.ready for loader in loaders) and all(loader.has_tried for loader in loaders)

    def routing(self, task: str | None = None, model: str | None = None) -> Routing:
        """The models as they serve now, for an event that may name its task, or whose path names a model.

        Raises ModelNotReady while no model is loaded, and RouteNotFound.
        """
        if model is not None:
            return Routing((self.named(model).current(),))
        if self._beside is not None:
            return self._beside.routing(self.first.current(), task)
        loaders = list(self)
        if not any(loader.ready for _, loader in loaders):
            self.first.current()
        served = [(name, loader.current() if loader.ready else loader.task) for name, loader in loaders]
        return Routing(
            tuple(model for _, model in served if model),
            frozenset(name for name, model in served if not model),
            task,
            self._elsewhere(),
            lacks_first=served[0][1] is None,
        )

    def _watch(self) -> None:
        while not self._stopping.wait(SCAN_SECONDS):
            self._scan()

    def _scan(self) -> None:
        """Begin to serve what is new in the folder."""
        if self._folder is None or self._load is None:
            return
        for model in models_in(self._folder):
            name = model.path.name
            if name in self._further:
                continue
            if len(self._further) + 1 >= MOST_MODELS:
                return
            _log.info("a further model is served", extra={"model": name})
            loader = self._load(model.champion)
            loader.start()
            self._further[name] = loader


def not_served(models: ServedModels) -> str:
    """What a route says that does not exist."""
    names = [name for name, _ in models]
    served = f"the model {names[0]}" if len(names) == 1 else f"the models {', '.join(names)}"
    return f"There is no such route. This predictor serves {served}; /docs lists its routes."
