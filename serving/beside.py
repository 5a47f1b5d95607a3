"""Which uploads a version gives second opinions on in a stack: those that the model of its task judges there.

The trigger of a shadow brings every upload, as that of the models that serve does. The cards of those say which tasks
there are beside, so that the same rules hold for both.
"""

from dataclasses import dataclass
from pathlib import Path

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.routing import Routing
from lungline.home import Home, ModelFolder
from lungline.task.task import Task
from serving.model_loader import task_in


@dataclass(frozen=True, slots=True)
class Beside:
    """The models that serve in a home."""

    home: Path

    def routing(self, challenger: Diagnoser, task: str | None) -> Routing:
        """The routing that gives a challenger the uploads it would judge in the place of the model of its task.

        Where none serves its task, as a further one. `task` is the one that the event names. Reads the cards anew.
        """
        own = challenger.package.card.task.name
        home = Home(self.home)
        folders = [folder for folder in (home.first_model, *home.further_models()) if folder.champion.is_symlink()]
        read = [(folder, task_in(folder.champion)) for folder in folders]
        served = [each for _, each in read if each]
        others = tuple(each for each in served if each.name != own)
        models = tuple(challenger if each.name == own else each for each in served)
        return Routing(
            models if len(others) < len(served) else (*models, challenger),
            frozenset(_missing(home, read)) - {own},
            task,
            elsewhere=others,
            lacks_first=bool(read) and read[0] == (home.first_model, None),
        )


def _missing(home: Home, read: list[tuple[ModelFolder, Task | None]]) -> list[str]:
    """The names of further models whose task cannot be read; that of the first is known from its card alone."""
    return [folder.path.name for folder, task in read if task is None and folder != home.first_model]
