"""Which uploads a shadow judges on a stack: those of its task, by the rules of the models that serve there."""

from pathlib import Path

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.routing import ServedElsewhere
from lungline.errors import ModelNotReady
from lungline.home import Home, ModelFolder
from lungline.package.package import Package
from lungline.task.reading import load_task
from lungline.task.task import Task
from serving.beside import Beside
from tests.support.tiny_package import write_tiny_package

KIND = load_task("pneumonia-kind")
WARD, OWN = "ward 7/1.jpeg", "pneumonia-kind/1.jpeg"


def second_version(folder: Path, task: Task | None = None) -> Diagnoser:
    write_tiny_package(folder, version="2", task=task)
    return Diagnoser(Package.load(folder))


@pytest.fixture(scope="module")
def pneumonia(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    return second_version(tmp_path_factory.mktemp("pneumonia") / "2")


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    return second_version(tmp_path_factory.mktemp("kind") / "2", KIND)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Pneumonia serves, and a further task."""
    home = Home(tmp_path)
    for folder, task in ((home.first_model, None), (further(home), KIND)):
        write_tiny_package(folder.package("1"), task=task)
        folder.point("1")
    return home


def further(home: Home) -> ModelFolder:
    return ModelFolder(home.models / KIND.name)


def test_it_judges_what_the_model_of_its_task_would(home: Home, pneumonia: Diagnoser, kind: Diagnoser) -> None:
    beside = Beside(home.path)
    for challenger, its, other in ((pneumonia, WARD, OWN), (kind, OWN, WARD)):
        assert beside.routing(challenger, None).of(its) is challenger
        with pytest.raises(ServedElsewhere):
            beside.routing(challenger, None).of(other)


def test_the_event_may_name_the_task(home: Home, pneumonia: Diagnoser, kind: Diagnoser) -> None:
    assert Beside(home.path).routing(kind, KIND.name).of(WARD) is kind
    with pytest.raises(ServedElsewhere):
        Beside(home.path).routing(pneumonia, KIND.name).of(WARD)


def test_the_first_version_of_a_task_leaves_others_theirs(home: Home, kind: Diagnoser) -> None:
    further(home).champion.unlink()
    routing = Beside(home.path).routing(kind, None)
    assert routing.of(OWN) is kind
    with pytest.raises(ServedElsewhere):
        routing.of(WARD)


def test_uploads_of_a_further_card_that_is_unreadable_wait(home: Home, pneumonia: Diagnoser) -> None:
    (further(home).package("1") / "card.json").write_text("{")
    routing = Beside(home.path).routing(pneumonia, None)
    assert routing.of(WARD) is pneumonia
    with pytest.raises(ModelNotReady):
        routing.of(OWN)


def test_while_the_first_card_is_unreadable_only_keys_decide(home: Home, kind: Diagnoser) -> None:
    (home.package("1") / "card.json").write_text("{")
    routing = Beside(home.path).routing(kind, None)
    assert routing.of(OWN) is kind
    with pytest.raises(ModelNotReady):
        routing.of(WARD)


def test_where_nothing_serves_it_judges_every_upload(tmp_path: Path, pneumonia: Diagnoser) -> None:
    assert Beside(tmp_path / "new").routing(pneumonia, None).of(OWN) is pneumonia
