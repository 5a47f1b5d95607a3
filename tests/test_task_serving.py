"""One stack that serves two tasks: each upload is judged by the model of its task, on one worklist."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from cli.dossiers import dossier
from eventing.kafka import SHADOW_GROUP
from laptop import challengers, stack
from laptop.rejudging import rejudge_uploads
from laptop.supervision.reconciler import is_handled
from laptop.uploads import scanner
from lungline.datasets.phantom import jpeg
from lungline.deployment.laptop import LaptopDeployment
from lungline.errors import ModelNotReady
from lungline.home import Home
from lungline.imaging.image import Limits
from lungline.results import opinions, record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task
from serving.model_loader import ModelLoader
from serving.served_models import ServedModels
from tests.support.laptop_stack import running_stack
from tests.support.predictor import b64
from tests.support.tiny_package import write_tiny_package
from tests.support.waiting import eventually
from worklist.database.models import WorklistEntry
from worklist.database.session import Database

pytestmark = pytest.mark.stack

KIND = load_task("pneumonia-kind")
EACH = 40
TENSOR = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(jpeg(1, opacities=True))]}]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack of the default task."""
    folder = tmp_path_factory.mktemp("stack")
    write_tiny_package(folder / "1")
    with running_stack(folder, folder / "1") as running:
        yield running


@pytest.fixture(scope="module")
def both(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """The connected settings, after a model of another task was put into service beside; and what that said."""
    connected = stack.connect(settings)
    folder = tmp_path_factory.mktemp("kind") / "1"
    write_tiny_package(folder, task=KIND)
    Storage.from_settings(connected).upload_folder(folder, connected.models_bucket, "pneumonia-kind/1")
    kind = connected.model_copy(update={"model_name": KIND.name, "task": KIND.name})
    sentence = LaptopDeployment.from_settings(kind).deploy(f"s3://{connected.models_bucket}/pneumonia-kind/1/", "1")
    return connected, sentence


def latest(settings: Settings, storage: Storage, prefix: str) -> list[ResultRecord]:
    every = record_store.every(storage, settings.results_bucket)
    return [record for record in every if record.upload.key.startswith(prefix)]


def versions_on_the_worklist(settings: Settings) -> dict[str, int]:
    """How many entries of the worklist each version of a model has."""
    with closing(Database.open(settings)) as database, database.reading() as session:
        return dict(session.execute(select(WorklistEntry.version, func.count()).group_by(WorklistEntry.version)).all())


def test_each_upload_is_judged_by_the_model_of_its_task(both: tuple[Settings, str]) -> None:
    """40 uploads of each task, mixed: a model that is put into service while the stack runs takes its own."""
    settings, sentence = both
    assert sentence == f"Version 1 serves at {settings.predictor_uri}."
    home = Home(settings.home)
    assert home.champion.readlink() == Path("packages/1")
    assert [folder.path.name for folder in home.further_models()] == ["pneumonia-kind"]
    sender = scanner(settings.model_copy(update={"s3_endpoint": None}))
    for number in range(EACH):
        for folder in ("pneumonia-kind", "ward 7"):
            sender.put(settings.uploads_bucket, f"{folder}/{number}.jpeg", jpeg(number, opacities=bool(number % 2)))
    storage = Storage.from_settings(settings)
    eventually(lambda: len(latest(settings, storage, "")) == 2 * EACH, 60)
    for record in latest(settings, storage, "pneumonia-kind/"):
        assert (record.task, record.model.name, record.model.version) == (KIND.name, KIND.name, "pneumonia-kind.1")
        assert record.label in {*KIND.labels, "Unsure"}
        assert [facts.name for facts in record.findings] == ["BACTERIAL", "VIRAL"]
    for record in latest(settings, storage, "ward 7/"):
        assert (record.task, record.model.version, record.findings) == ("pneumonia", "1", ())
        assert record.label in {"Normal", "Pneumonia", "Unsure"}
    assert len(latest(settings, storage, "pneumonia-kind/")) == len(latest(settings, storage, "ward 7/")) == EACH
    eventually(lambda: versions_on_the_worklist(settings) == {"1": EACH, "pneumonia-kind.1": EACH}, 60)


def test_dossier_has_the_model_of_its_uploads_task(
    both: tuple[Settings, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an option: the record names it. The first champion's package is in no bucket."""
    settings, _ = both
    models: dict[str, str | None] = {}
    for folder in ("pneumonia-kind", "ward 7"):
        dossier(f"{folder}/0.jpeg", home=settings.home, as_json=True)
        (sheet,) = json.loads(capsys.readouterr().out)["models"]
        models[sheet["name"]] = sheet["card"] and sheet["card"]["task"]["name"]
    assert models == {"pneumonia-kind": "pneumonia-kind", "pneumonia": None}


def test_images_are_predicted_by_the_model_that_the_path_names(both: tuple[Settings, str]) -> None:
    settings, _ = both
    assert settings.predictor_uri
    with httpx.Client(base_url=settings.predictor_uri, timeout=30) as http:
        assert http.get("/v1/models").json() == {"models": ["pneumonia", "pneumonia-kind"]}
        for name in ("pneumonia", "pneumonia-kind"):
            assert http.get(f"/v2/models/{name}").json()["versions"] == ["1"]
            answer = http.post(f"/v2/models/{name}/infer", json=TENSOR).json()
            assert answer["model_name"] == name
        unknown = http.get("/v2/models/rib-fracture")
    assert unknown.status_code == 404
    assert "serves the models pneumonia, pneumonia-kind;" in unknown.json()["error"]


def test_second_opinions_are_given_on_uploads_of_their_task_alone(both: tuple[Settings, str]) -> None:
    """By a version of the further task: live uploads by the rules of those that serve, old ones by their answers."""
    settings, _ = both
    storage = Storage.from_settings(settings)
    kind = settings.model_copy(update={"model_name": KIND.name, "task": KIND.name})
    write_tiny_package(settings.home / "second", version="2", task=KIND)
    storage.upload_folder(settings.home / "second", settings.models_bucket, "pneumonia-kind/2")
    assert challengers.start(kind, "2", "shadow").recorded == "pneumonia-kind.2"
    sender, began = scanner(settings.model_copy(update={"s3_endpoint": None})), datetime.now(UTC)
    live = [f"{folder}/live.jpeg" for folder in ("ward 7", "pneumonia-kind", "ward 8")]
    for key in live:
        sender.put(settings.uploads_bucket, key, jpeg(7, opacities=True))
    eventually(lambda: {record.upload.key for record in latest(settings, storage, "")} >= {*live}, 30)
    eventually(lambda: is_handled(settings, datetime.now(UTC), settings.uploads_topic, SHADOW_GROUP), 60)
    given = list(opinions.every(storage, settings.results_bucket))
    assert [(each.record.upload.key, each.record.task) for each in given] == [("pneumonia-kind/live.jpeg", KIND.name)]
    stopped = challengers.stop(settings, "shadow")
    assert stopped
    assert stopped.model == KIND.name
    done = rejudge_uploads(kind, "2", since=began, until=None, labels=frozenset(), most=None, rate=100.0)
    assert (done.chosen, done.judged) == (1, 1)


def test_a_model_whose_package_is_gone_keeps_only_its_own_uploads_waiting(tmp_path: Path) -> None:
    write_tiny_package(tmp_path / "1")
    first = ModelLoader(tmp_path / "1", Limits())
    assert first.refresh()
    kind = tmp_path / "models" / KIND.name
    kind.mkdir(parents=True)
    (kind / "current").symlink_to("packages/1")
    models = ServedModels("pneumonia", first, tmp_path / "models", lambda link: ModelLoader(link, Limits()))
    models.start()
    try:
        eventually(lambda: models.ready)
        assert models.routing().missing == {KIND.name}
        assert models.routing().of("ward 7/1.png") is first.current()
        with pytest.raises(ModelNotReady):
            models.routing().of("pneumonia-kind/1.png")
    finally:
        models.stop()


def test_a_first_model_that_is_refused_keeps_only_its_own_uploads_waiting(tmp_path: Path) -> None:
    """As after a restart with a damaged package: the other tasks are judged, and the predictor is ready for them."""
    write_tiny_package(tmp_path / "1")
    (tmp_path / "1" / "model.tflite").write_bytes(b"damaged")
    kind = tmp_path / "models" / KIND.name
    write_tiny_package(kind / "packages" / "1", task=KIND)
    (kind / "current").symlink_to("packages/1")
    first = ModelLoader(tmp_path / "1", Limits())
    models = ServedModels("pneumonia", first, tmp_path / "models", lambda link: ModelLoader(link, Limits()))
    models.start()
    try:
        eventually(lambda: models.ready)
        assert not first.ready
        judged = models.routing().of("pneumonia-kind/1.png")
        assert judged is not None
        assert judged.package.card.task == KIND
        with pytest.raises(ModelNotReady, match="the task pneumonia is not loaded yet"):
            models.routing().of("ward 7/1.png")
        with pytest.raises(ModelNotReady):
            models.named("pneumonia").current()
    finally:
        models.stop()
