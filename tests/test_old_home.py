"""A home that version 0.1.0 wrote still opens: its model serves; its records, readings and history are read."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from laptop import stack
from laptop.services.broker_log import BrokerLog, log_file
from laptop.services.store import BROKER_BUCKET
from laptop.uploads import upload_and_watch
from lungline.datasets.phantom import jpeg
from lungline.monitoring import findings
from lungline.registry import mlflow_client
from lungline.registry.versions import Registry
from lungline.results import readings, record_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database.models import ReadingRow, WorklistEntry
from worklist.database.session import Database

pytestmark = pytest.mark.stack

HOME = Path(__file__).parent / "homes" / "v0.1.0.tar.xz"
OUTCOMES = {"ward 7/person1_1.jpeg": "judged", "ward 7/person2_1.jpeg": "judged", "ward 7/note.png": "refused"}
READINGS = [("corrected", "Pneumonia", "left base"), ("read", None, ""), ("read", None, "")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a stack that has started in the old home."""
    home = tmp_path_factory.mktemp("old") / "home"
    with tarfile.open(HOME) as archive:
        archive.extractall(home, filter="data")
    settings = Settings(home=home)
    stack.up(settings, wait_for={*stack.ESSENTIAL, "worklist", "mlflow"}, attached=True)
    yield stack.connect(settings)
    stack.down(settings)


@pytest.fixture(scope="module")
def storage(settings: Settings) -> Storage:
    return Storage.from_settings(settings)


@pytest.fixture
def session(settings: Settings) -> Iterator[Any]:
    """A session of the worklist's database."""
    database = Database.open(settings)
    try:
        with database.reading() as session:
            yield session
    finally:
        database.close()


def test_the_old_champion_diagnoses_an_upload(settings: Settings) -> None:
    (arrival,) = upload_and_watch(
        [("ward 8/new.jpeg", lambda: jpeg(3, opacities=True))], Settings(home=settings.home), lambda _: None
    )
    assert arrival.record.outcome == "judged"
    assert arrival.record.model.version == "1"


def test_the_old_log_of_the_broker_has_moved_out_of_the_store(settings: Settings, storage: Storage) -> None:
    """With the events of its three uploads; they were delivered, and are not again."""
    assert list(storage.list(BROKER_BUCKET)) == []
    with closing(BrokerLog(log_file(settings.home / "broker"))) as log:
        keys = [listed.key for listed in log.listed("")]
    assert any("/groups/consumers/lungline-trigger/" in key for key in keys)
    assert any(f"/{settings.results_topic}/" in key and key.endswith("2.batch") for key in keys)


def test_mlflow_loads_the_old_version(settings: Settings) -> None:
    """Its MLmodel names the loader `lungline.lineage.flavour`, which is an alias now."""
    script = (
        "import mlflow, numpy, json\n"
        "info = mlflow.models.get_model_info('models:/pneumonia/1')\n"
        "model = mlflow.pyfunc.load_model('models:/pneumonia@champion')\n"
        "(prediction,) = model.predict(numpy.zeros((1, 32, 32, 1), numpy.float32))\n"
        "print(json.dumps([info.flavors['python_function']['loader_module'], prediction['probability']]))\n"
    )
    environment = os.environ | mlflow_client.environment(settings) | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    loader, probability = json.loads(done.stdout.splitlines()[-1])
    assert loader == "lungline.lineage.flavour"
    assert 0 <= probability <= 1


def test_the_old_history_verifies(settings: Settings) -> None:
    """The chain of hashes holds, and so does its anchor in MLflow."""
    entries = Registry(settings).verified({}).entries
    assert [(entry.act, entry.version, entry.by) for entry in entries] == [
        ("began", "1", "Ada"),
        ("promoted", "1", "Ada"),
    ]
    assert entries[-1].facts.metrics["auc"] == pytest.approx(0.98)


def test_old_results_are_listed(settings: Settings, storage: Storage) -> None:
    listed = {record.upload.key: record for record in record_store.every(storage, settings.results_bucket)}
    assert {key: listed[key].outcome for key in OUTCOMES} == OUTCOMES
    image = listed["ward 7/person1_1.jpeg"].image
    assert image is not None
    assert (image.format, image.width, image.height) == ("jpeg", 224, 224)
    assert listed["ward 7/person1_1.jpeg"].image_statistics is not None
    assert listed["ward 7/note.png"].image is None


def test_old_readings_are_read_from_the_bucket(settings: Settings, storage: Storage) -> None:
    stored = list(readings.stored(storage, settings.results_bucket))
    assert None not in stored
    actions = sorted((reading.action, reading.verdict, reading.comment) for reading in stored if reading)
    assert actions == sorted(READINGS, key=str)


def test_the_old_worklist_shows_entries_and_readings(session: Any) -> None:
    entries = {entry.key: entry.outcome for entry in session.scalars(select(WorklistEntry))}
    assert {key: entries[key] for key in OUTCOMES} == OUTCOMES
    rows = session.scalars(select(ReadingRow).order_by(ReadingRow.number)).all()
    assert [(row.action, row.verdict, row.comment) for row in rows] == READINGS


def test_the_old_findings_of_monitoring_are_read(settings: Settings, storage: Storage) -> None:
    latest = findings.latest(storage, settings.results_bucket)
    assert latest is not None
    (model,) = latest.models
    assert (model.version, model.results, dict(model.labels)) == ("1", 3, {"Pneumonia": 2, "Refused": 1})
