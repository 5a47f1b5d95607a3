"""Which of several tasks judges an upload: by event, key, DICOM header; and what fits none."""

from pathlib import Path

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.routing import Routing, ServedElsewhere
from lungline.errors import ModelNotReady
from lungline.imaging.dicom_facts import NEEDED
from lungline.imaging.dicom_header import DicomFile, find_header
from lungline.imaging.preparation import Preparation
from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds
from lungline.package.package import Package
from lungline.results.records import place_of, record_version
from lungline.task.finding import Images
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.task.writing import new_task
from tests.support.dicom_files import film, write

OWN_KEYS = new_task("rib-fracture").model_copy(update={"prefixes": ("trauma/", "emergency/ribs/")})
FROM_BEHIND = new_task("effusion").model_copy(update={"images": Images(modality=("DX",), view=("pa",))})
FROM_ABOVE = new_task("device").model_copy(update={"images": Images(view=("AP",))})


def routing(*tasks: Task, task: str | None = None, missing: frozenset[str] = frozenset()) -> Routing:
    """Models of these tasks; only their cards count here."""
    return Routing(tuple(map(_model, tasks)), missing, task)


def unloaded(*tasks: Task, loaded: tuple[Task, ...] = (), task: str | None = None) -> Routing:
    """Tasks whose models are not loaded, before those of loaded ones."""
    return Routing((*tasks, *map(_model, loaded)), task=task)


def _model(task: Task) -> Diagnoser:
    band = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")
    data, code = DataFacts(name="phantom", digest="0" * 64, synthetic=True), CodeFacts(version="0")
    card = Card(
        name=task.name, preparation=Preparation(size=32), task=task, thresholds=band, data=data, code=code, version="1"
    )
    return Diagnoser(Package(Path("nowhere"), card, "0" * 64, b""))


def header(modality: str = "DX", view: str = "PA") -> DicomFile | None:
    return find_header(write(film(64), Modality=modality, ViewPosition=view), NEEDED)


def task_of(chosen: Diagnoser | None) -> str | None:
    return chosen.package.card.task.name if chosen else None


def test_a_model_alone_takes_every_upload() -> None:
    alone = routing(FROM_BEHIND)
    for key in ("effusion/1.png", "pneumonia/1.png", "1.png"):
        assert task_of(alone.of(key)) == "effusion"
    assert task_of(alone.of("1.dcm", header(view="AP"))) == "effusion"  # which says then that it is not meant for it


def test_the_event_decides_before_the_key_and_the_key_before_the_header() -> None:
    tasks = (default_task(), OWN_KEYS, FROM_BEHIND)
    several = routing(*tasks)
    assert task_of(several.of("pneumonia/1.dcm", header())) == "pneumonia"
    assert task_of(several.of("trauma/1.dcm", header())) == "rib-fracture"
    assert task_of(several.of("ward 7/1.dcm", header())) == "effusion"
    assert task_of(routing(*tasks, task="pneumonia").of("trauma/1.dcm", header())) == "pneumonia"


def test_the_longest_prefix_of_a_key_counts() -> None:
    emergency = new_task("emergency").model_copy(update={"prefixes": ("emergency/",)})
    several = routing(default_task(), emergency, OWN_KEYS)
    assert task_of(several.of("emergency/1.png")) == "emergency"
    assert task_of(several.of("emergency/ribs/1.png")) == "rib-fracture"
    assert task_of(several.of("emergencies/1.png")) == "pneumonia"


def test_a_header_goes_to_the_task_that_it_says_most_of() -> None:
    several = routing(default_task(), FROM_BEHIND, FROM_ABOVE)
    assert task_of(several.of("1.dcm", header(view="PA"))) == "effusion"
    assert task_of(several.of("1.dcm", header(view="AP"))) == "device"
    assert task_of(several.of("1.dcm", header("CR", view="LL"))) == "pneumonia"
    assert task_of(several.of("1.png")) == "pneumonia"


def test_an_upload_that_every_task_rules_out_fits_none() -> None:
    several = routing(FROM_BEHIND, FROM_ABOVE)
    assert several.of("1.dcm", header("CR", view="LL")) is None
    assert routing(OWN_KEYS).of("ward 7/1.png") is None
    assert routing(default_task(), task="fracture").of("1.png") is None


def test_the_uploads_of_a_task_wait_for_its_model() -> None:
    """They must not go to another task because its own model loads later, or is refused."""
    waiting = routing(default_task(), missing=frozenset({"pneumonia-kind"}))
    assert task_of(waiting.of("ward 7/1.png")) == "pneumonia"
    with pytest.raises(ModelNotReady, match="task pneumonia-kind is not loaded yet"):
        waiting.of("pneumonia-kind/1.png")


def test_uploads_wait_by_prefix_and_header_of_their_task() -> None:
    """Its file says which they are, loaded or not."""
    waiting = unloaded(OWN_KEYS, FROM_BEHIND, loaded=(default_task(),))
    for key, of in (("trauma/1.dcm", header()), ("ward 7/1.dcm", header(view="PA")), ("rib-fracture/1.png", None)):
        with pytest.raises(ModelNotReady, match="is not loaded yet"):
            waiting.of(key, of)
    assert task_of(waiting.of("ward 7/1.dcm", header(view="AP"))) == "pneumonia"


def test_without_the_first_model_other_tasks_are_judged() -> None:
    several = unloaded(default_task(), loaded=(OWN_KEYS, FROM_BEHIND))
    assert task_of(several.of("trauma/1.png")) == "rib-fracture"
    assert task_of(several.of("1.dcm", header(view="PA"))) == "effusion"
    for key, of in (("ward 7/1.png", None), ("1.dcm", header(view="AP")), ("pneumonia/1.dcm", header(view="PA"))):
        with pytest.raises(ModelNotReady, match="the task pneumonia is not loaded yet"):
            several.of(key, of)


def test_a_first_model_without_a_card_leaves_only_names() -> None:
    """What it takes cannot be told then: what neither event nor key decide has to wait."""
    lacking = Routing((_model(OWN_KEYS), _model(FROM_BEHIND)), frozenset({"pneumonia"}), lacks_first=True)
    assert task_of(lacking.of("trauma/1.png")) == "rib-fracture"
    assert task_of(lacking.of("effusion/1.dcm", header())) == "effusion"
    for key in ("ward 7/1.dcm", "pneumonia/1.dcm"):
        with pytest.raises(ModelNotReady):
            lacking.of(key, header())


def test_what_another_predictor_serves_is_told_apart() -> None:
    """By event, key and header, as where one predictor serves all; the rest is judged here, or fits no task."""

    def chosen(key: str, of: DicomFile | None = None, task: str | None = None) -> str | None:
        cluster = Routing((_model(default_task()),), task=task, elsewhere=(OWN_KEYS, FROM_BEHIND))
        try:
            return task_of(cluster.of(key, of))
        except ServedElsewhere as exc:
            return f"{exc.task} elsewhere"

    assert chosen("ward 7/1.png") == chosen("pneumonia/1.png") == "pneumonia"
    assert chosen("ward 7/1.dcm", header(view="AP")) == "pneumonia"
    assert chosen("ward 7/1.dcm", header(view="PA")) == "effusion elsewhere"
    assert chosen("trauma/1.png") == chosen("rib-fracture/1.png") == "rib-fracture elsewhere"
    assert chosen("ward 7/1.png", task="rib-fracture") == "rib-fracture elsewhere"
    assert chosen("trauma/1.png", task="pneumonia") == "pneumonia"
    assert chosen("ward 7/1.png", task="fracture") is None


def test_before_the_header_is_read_only_names_decide() -> None:
    cluster = Routing((_model(FROM_ABOVE),), elsewhere=(default_task(), OWN_KEYS))
    assert task_of(cluster.before_fetching("ward 7/1.dcm")) == "device"
    with pytest.raises(ServedElsewhere):
        cluster.before_fetching("trauma/1.dcm")


def test_records_of_another_task_say_its_model_in_their_version() -> None:
    for name, task in (("chest", "pneumonia"), ("pneumonia-kind", "pneumonia-kind")):
        assert place_of(record_version(name, task, "3"), "chest") == (name, "3")
    assert record_version("pneumonia", "pneumonia", "3") == "3"  # as ever
