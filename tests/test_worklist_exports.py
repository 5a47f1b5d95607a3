import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from lungline.datasets import phantom
from lungline.datasets.opening import open_dataset
from lungline.errors import LunglineError, SettingsError
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY
from tests.support.worklist_site import home, record
from worklist import commands
from worklist.database import entries, readings
from worklist.database.ingest import ingest
from worklist.database.models import Delivery
from worklist.database.session import Database
from worklist.destinations import FhirDestination
from worklist.exports.feedback import patient, split
from worklist.exports.fhir import report


@pytest.fixture
def settings(tmp_path: Path, store: Storage) -> Settings:
    connection = {"s3_endpoint": store.endpoint, "s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY}
    return Settings.model_validate(connection | {"home": tmp_path / "home"})


def upload(store: Storage, number: int, patient: int) -> ResultRecord:
    key = f"clinic/person{patient}_{number}.jpeg"
    etag = store.put("xray-uploads", key, phantom.jpeg(number, opacities=bool(patient % 2)))
    return record(number, 0.9 if patient % 2 else 0.1, key=key, etag=etag)


def read(
    database: Database, result: ResultRecord, action: readings.Action, verdict: readings.Verdict | None = None
) -> None:
    with database.writing() as session:
        entry = entries.find(session, result.upload.identity)
        assert entry
        readings.read(session, entry, reader="dr.adams", action=action, verdict=verdict)


def test_readings_become_a_data_set_for_training(settings: Settings, store: Storage, tmp_path: Path) -> None:
    with closing(Database.open(settings)) as database:
        uploads = [upload(store, number, number // 2) for number in range(80)]
        for result in uploads:
            ingest(database, result)
        for result in uploads[:72]:
            read(database, result, "confirmed")
        read(database, uploads[0], "corrected", "Pneumonia")
        read(database, uploads[1], "corrected", "Not usable")
        read(database, uploads[2], "reopened")
        read(database, uploads[73], "read")
    done = commands.export_feedback(settings, tmp_path / "feedback")
    assert done.images == 70
    dataset = open_dataset(str(tmp_path / "feedback"), settings=settings)
    assert len(dataset.examples) == 70
    owners: dict[str | None, set[str]] = {}
    for example in dataset.examples:
        owners.setdefault(example.patient, set()).add(example.split)
    assert None not in owners
    assert all(len(splits) == 1 for splits in owners.values())
    (corrected,) = [example for example in dataset.examples if uploads[0].upload.identity in example.name]
    assert corrected.label == 1
    assert dataset.read(corrected) == store.get("xray-uploads", uploads[0].upload.key).data
    assert "dr.adams" not in (tmp_path / "feedback/labels.csv").read_text()


def test_an_export_without_labels_and_one_over_another_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(LunglineError, match="nothing to export"):
        commands.export_feedback(settings, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(LunglineError, match="already holds files"):
        commands.export_feedback(settings, tmp_path / "full")


def test_an_image_that_was_overwritten_is_left_out(settings: Settings, store: Storage, tmp_path: Path) -> None:
    with closing(Database.open(settings)) as database:
        for number in (200, 201):
            result = upload(store, number, number)
            ingest(database, result)
            read(database, result, "confirmed")
    store.put("xray-uploads", result.upload.key, phantom.jpeg(5, opacities=True))
    done = commands.export_feedback(settings, tmp_path / "out")
    assert (done.images, done.gone) == (1, 1)


def test_patient_comes_from_pattern_name_or_folder(settings: Settings, tmp_path: Path) -> None:
    import re

    assert patient("a/person12_virus_3.jpeg") == "person12"
    assert patient("DOE/1.png") == patient("DOE/2.png") == "DOE"
    assert patient("lone.png") == "lone.png"
    assert patient("x/MRN77-1.png", re.compile(r"MRN(\d+)")) == "77"
    assert {split(str(number)) for number in range(100)} == {"train", "val", "test"}
    odd = settings.model_copy(update={"worklist": home(tmp_path, patient_pattern="(").worklist})
    with pytest.raises(SettingsError, match="regular expression"):
        commands.export_feedback(odd, tmp_path / "odd")


def test_enough_new_labels_make_a_training_run_due_once(settings: Settings) -> None:
    few = settings.model_copy(update={"worklist": settings.worklist.model_copy(update={"retrain_labels": 2})})
    with closing(Database.open(settings)) as database:
        for number in range(3):
            ingest(database, record(number))
        read(database, record(0), "confirmed")
        read(database, record(0), "confirmed")
        read(database, record(1), "read")
        assert not commands.retrain_check(few).is_due
        read(database, record(2), "corrected", "Normal")
    check = commands.retrain_check(few)
    assert (check.labels, check.is_due) == (2, True)
    commands.mark_trained(few, check)
    assert commands.retrain_check(few).labels == 0


@pytest.mark.parametrize(
    "result", [record(), record(0, 0.5), record(0, 0.1), record(outcome="refused"), record(outcome="gone")]
)
def test_every_result_is_a_valid_fhir_report(result: ResultRecord) -> None:
    """It names no file."""
    value = report(result)
    text = json.dumps(value)
    assert value["resourceType"] == "DiagnosticReport"
    assert value["status"] == ("cancelled" if result.outcome == "gone" else "preliminary")
    assert "xray-0" not in text
    assert "Not a medical device" in text


def test_verdict_makes_the_fhir_report_final(settings: Settings) -> None:
    with closing(Database.open(settings)) as database:
        ingest(database, record())
        read(database, record(), "corrected", "Normal")
        with database.reading() as session:
            value = report(record(), readings.record_of(readings.history(session, record().upload.identity)[0]))
    assert value["status"] == "final"
    assert value["contained"][-1]["valueBoolean"] is False
    assert "dr.adams" not in json.dumps(value)


def test_results_of_another_task_go_out_with_its_own_codes(settings: Settings, tmp_path: Path) -> None:
    kind = record(1).model_copy(update={"task": "pneumonia-kind", "label": "Bacterial"})
    destination = FhirDestination.model_validate({"name": "archive", "kind": "fhir", "url": "https://fhir.example.org"})
    with closing(Database.open(settings)) as database:
        ingest(database, record(), kind, destinations=[destination])
        with database.writing() as session:
            entry = entries.find(session, kind.upload.identity)
            assert entry
            assert (entry.label, entry.priority // 1000) == ("Bacterial", 1)
            assert set(session.scalars(select(Delivery.record))) == {record().id, kind.id}
            entry.read, entry.verdict = 1, "Bacterial"
    assert commands.export_results(settings, "csv", tmp_path / "all.csv") == 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert [row["task"] for row in rows] == ["pneumonia", "pneumonia-kind"]
    commands.export_results(settings, "fhir", tmp_path / "all.ndjson")
    reports = [json.loads(line) for line in (tmp_path / "all.ndjson").read_text().splitlines()]
    codes = [each["contained"][1]["code"]["coding"][0]["code"] for each in reports]
    assert codes == ["pneumonia-risk", "pneumonia-kind-risk"]
    assert commands.retrain_check(settings).usable == 0, "labels of another task are of no use"


def test_results_are_exported_as_files(settings: Settings, tmp_path: Path) -> None:
    with closing(Database.open(settings)) as database:
        for number in range(3):
            ingest(database, record(number, key='=HYPERLINK("http://x"),é' if number == 0 else f"k{number}"))
    assert commands.export_results(settings, "csv", tmp_path / "all.csv") == 3
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert rows[0]["key"].startswith("'=HYPERLINK")
    assert [row["label"] for row in rows] == ["Pneumonia"] * 3
    assert commands.export_results(settings, "fhir", tmp_path / "all.ndjson") == 3
    for line in (tmp_path / "all.ndjson").read_text().splitlines():
        assert json.loads(line)["resourceType"] == "DiagnosticReport"
