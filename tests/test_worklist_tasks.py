"""Results of several tasks on one worklist: of one finding, of one of several, and of many at once."""

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread
from pydantic import ValidationError

from lungline.datasets.sources import FolderSource
from lungline.datasets.tables import read_tables
from lungline.errors import SettingsError
from lungline.results.patients import PatientRecord
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.task.terms import terms_of
from lungline.task.writing import new_task
from tests.support.object_store import running_store
from tests.support.task_records import MANY, several, terms_of_kind
from tests.support.worklist_site import Site, home, record, running_site, wait
from tests.test_worklist_dicom import radiograph
from tests.test_worklist_store import undo_tasks
from worklist.database import entries, readings
from worklist.database.entries import Filter
from worklist.database.ingest import ingest
from worklist.database.models import WorklistEntry
from worklist.database.session import Database
from worklist.database.tasks import stored
from worklist.delivery import hl7
from worklist.delivery.parcel import Finding
from worklist.destinations import Hl7Destination
from worklist.exports import fhir
from worklist.exports.feedback import export_feedback, retrain_check
from worklist.exports.images import ImageRenderer
from worklist.exports.structured_report import structured_report
from worklist.rules import DEFAULT, load_rules
from worklist.tasks import KnownTasks, tasks_of

BOTH = several(1, {"EFFUSION": 0.9, "NODULE": 0.8, "DEVICE": 0.5}, key="both")
SURE = several(2, {"OPACITY": 0.8, "DEVICE": 0.9}, key="sure")
CLEAR = several(3, {}, key="clear")
VIRAL = several(4, {"VIRAL": 0.85}, terms_of_kind(), key="viral")
PLAIN = (record(5, 0.9, key="pneumonia"), record(6, 0.5, key="unsure"), record(7, 0.1, key="normal"))
ALL = (BOTH, SURE, CLEAR, VIRAL, *PLAIN)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database.open(home(tmp_path))) as database:
        ingest(database, *ALL)
        yield database


def tasks_in(database: Database) -> KnownTasks:
    with database.reading() as session:
        return tasks_of(None, stored(session))


def keys(database: Database, **query: str) -> list[str]:
    with database.reading() as session:
        wanted = Filter.of({"view": "all"} | query, tasks_in(database))
        page = entries.page(session, wanted).entries
        everything = entries.page(session, Filter(view="all")).entries
    now = datetime.now(UTC)
    assert {each.key for each in everything if wanted.matches(each, now)} == {each.key for each in page}, query
    return [each.key for each in page]


def test_the_most_urgent_finding_of_any_task_comes_first(database: Database) -> None:
    assert keys(database) == ["both", "pneumonia", "sure", "viral", "unsure", "normal", "clear"]


def test_a_list_is_of_one_task_or_of_all_and_of_a_finding(database: Database) -> None:
    assert keys(database, task="chest-findings") == ["both", "sure", "clear"]
    assert keys(database, task="pneumonia-kind") == ["viral"]
    assert keys(database, task="no-such-task") == keys(database)
    for sort in ("urgent", "newest"):
        assert keys(database, label="Nodule", sort=sort) == ["both"], "beside a more urgent one"
        assert set(keys(database, label="Device", sort=sort)) == {"sure"}, "unsure is not there"
        assert keys(database, label="Pneumonia", sort=sort) == ["pneumonia"], "not all that is urgent"
        assert keys(database, label="Opacity", task="chest-findings", sort=sort) == ["sure"]
        assert keys(database, label="Normal", q="normal", sort=sort) == ["normal"]


def test_counters_count_findings_of_each_task(database: Database) -> None:
    with database.reading() as session:
        counters = entries.count(session, tasks_in(database))
    assert (counters.uploaded, counters.positive, counters.unsure, counters.urgent) == (7, 4, 1, 2)
    assert {task: (each["uploaded"], each["positive"]) for task, each in counters.tasks.items()} == {
        "pneumonia": (3, 1),
        "chest-findings": (3, 2),
        "pneumonia-kind": (1, 1),
    }


def test_a_home_of_before_gets_its_tasks_from_its_records(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path))) as database:
        ingest(database, *ALL)
    with closing(sqlite3.connect(tmp_path / "worklist/worklist.db")) as connection, connection:
        connection.execute("UPDATE entries SET priority = 1000")
        undo_tasks(connection)
        connection.execute("UPDATE alembic_version SET version_num = '0008'")
    with closing(Database.open(home(tmp_path))) as database:
        assert [task.name for task in tasks_in(database).tasks] == ["pneumonia", "chest-findings", "pneumonia-kind"]
        assert keys(database, task="chest-findings", label="Nodule") == ["both"]
        assert keys(database, task="pneumonia-kind") == ["viral"]


def test_a_record_without_the_terms_of_its_task_is_refused() -> None:
    document = json.loads(BOTH.model_dump_json())
    for change in ({"terms": None}, {"task": "another"}, {"label": "Pneumonia"}):
        with pytest.raises(ValidationError, match="expected"):
            ResultRecord.model_validate(document | change)
    assert ResultRecord.model_validate(document).task_terms == MANY


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(home(tmp_path_factory.mktemp("site"))) as site:
        for result in ALL:
            assert site.send(result).status_code == 204
        yield site


def read(site: Site, result: ResultRecord, say: str, *findings: str) -> tuple[int, Any]:
    """Submit a reading; its status, and the last stored reading."""
    with site.client() as client:
        form: dict[str, Any] = site.form(client, result.upload.identity) | {"say": say, "finding": list(findings)}
        status = client.post(f"/x/{result.upload.identity}/readings", data=form).status_code
    with site.database.reading() as session:
        last = readings.history(session, result.upload.identity)
        return status, last and readings.record_of(last[0])


def test_a_reader_says_of_each_finding_whether_it_is_there(site: Site) -> None:
    with site.client() as client:
        page = client.get(f"/x/{BOTH.upload.identity}").text
    assert page.count('type="checkbox"') == 4
    assert 'value="NODULE" data-key="4" checked' in page
    assert 'value="DEVICE" data-key="5" >' in page
    assert "Confirm Effusion" not in page
    assert read(site, BOTH, "confirmed")[0] == 400, "the model is unsure of one"
    assert read(site, BOTH, "findings", "TUMOUR")[0] == 400
    status, said = read(site, BOTH, "findings", "NODULE", "DEVICE")
    assert (status, said.task, said.action, said.verdict) == (303, "chest-findings", "corrected", "Nodule")
    assert said.findings == {"EFFUSION": "absent", "OPACITY": "absent", "NODULE": "present", "DEVICE": "present"}
    assert ReadingRecord.model_validate_json(said.model_dump_json()) == said


def test_the_list_names_every_finding_of_a_reading(site: Site) -> None:
    read(site, BOTH, "findings", "NODULE", "DEVICE")
    with site.client() as client:
        row = next(row for row in client.get("/rows?view=all").text.split("</tr>") if BOTH.upload.identity in row)
    assert '<span class="reading-state">Nodule, Device</span>' in row


def test_readings_that_agree_on_each_finding_confirm(site: Site) -> None:
    assert read(site, SURE, "findings", "OPACITY", "DEVICE")[1].action == "confirmed"
    assert read(site, SURE, "findings", "OPACITY")[1].action == "corrected", "although the label is the same"
    assert read(site, SURE, "confirmed")[1].findings["DEVICE"] == "present"
    assert read(site, CLEAR, "Clear")[1].action == "confirmed"
    assert set(read(site, CLEAR, "Clear")[1].findings.values()) == {"absent"}
    assert read(site, CLEAR, "Normal")[0] == 400, "a label of another task"
    assert read(site, VIRAL, "Bacterial")[1].findings == {"BACTERIAL": "present", "VIRAL": "absent"}
    assert read(site, PLAIN[0], "Pneumonia")[1].findings == {}


def test_pages_name_tasks_where_there_are_several(site: Site, tmp_path: Path) -> None:
    with site.client() as client:
        page = client.get("/?view=all").text
        assert all(task.title in page for task in (MANY, terms_of_kind()))
        assert "of-chest-findings-EFFUSION" in page
        colours = client.get("/tasks.css")
        assert (colours.headers["content-type"], "--own: #ff8a7a" in colours.text) == ("text/css; charset=utf-8", True)
        assert client.get("/rows?task=pneumonia-kind&view=all").text.count("<tr id=") == 1
        for name in ("notices", "audit", "aside"):
            assert client.get(f"/{name}").status_code == 200
    with running_site(home(tmp_path)) as alone, alone.client() as client:
        alone.send(PLAIN[0])
        wait(lambda: "Pneumonia" in client.get("/?view=all").text)
        assert 'class="tasks"' not in client.get("/").text


def test_reports_say_of_each_finding_with_its_own_code() -> None:
    said = ReadingRecord.model_validate(
        {
            "id": "a",
            "identity": BOTH.upload.identity,
            "record": BOTH.id,
            "version": "1",
            "task": BOTH.task,
            "label": None,
        }
        | {"probability": 0.9, "action": "corrected", "verdict": "Nodule", "comment": "", "reader": "r"}
        | {"at": "2026-03-01T09:00:00Z", "findings": MANY.presences_of(["NODULE", "DEVICE"])}
    )
    report = fhir.report(BOTH, said)
    seen = {each["id"]: each for each in report["contained"] if each["resourceType"] == "Observation"}
    assert {name: each["valueBoolean"] for name, each in seen.items() if "valueBoolean" in each} == {
        "reading-effusion": False,
        "reading-opacity": False,
        "reading-nodule": True,
        "reading-device": True,
    }
    assert seen["finding-effusion"]["code"]["coding"][0]["code"] == "60046008"
    assert seen["finding-device"]["interpretation"][0]["coding"][0]["code"] == "IND"
    assert report["conclusion"].startswith("Read as Nodule, Device.")
    assert fhir.report(BOTH)["conclusion"].startswith("Model prediction: Effusion, Nodule, risk 90.0%")
    blank = dict.fromkeys(PatientRecord.model_fields.keys() - {"schema_version"}, "")
    patient = PatientRecord.model_validate(
        blank | {"identity": BOTH.upload.identity, "patient_id": "1", "study_uid": "1.2"}
    )
    text = hl7.message(Hl7Destination(name="engine", host="engine"), Finding(BOTH, None, patient), "1")
    rows = [line.split("|") for line in text.split("\r") if line.startswith("OBX")]
    presences = {row[3].split("^")[1]: row[5].split("^")[1] for row in rows if row[2] == "CE"}
    judged = {"Pleural effusion": "Present", "Opacity": "Absent", "Nodule": "Present"}
    assert presences == judged | {"Cardiac pacemaker": "Indeterminate"}
    assert [row[5] for row in rows if row[2] == "NM"][:4] == ["0.9", "0.05", "0.8", "0.5"]
    document: Any = srread(io.BytesIO(structured_report(radiograph(), BOTH)))
    groups = document.content.get_image_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == [*judged, "Cardiac pacemaker"]
    assert [round(group.get_measurements()[0].value, 2) for group in groups] == [0.9, 0.05, 0.8, 0.5]


def rules_in(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "rules.toml"
    file.write_text(f'[[rule]]\nname = "a"\n{text}\nto = [["file"]]\n')
    return load_rules(file, MANY)[0]


def test_rules_name_findings_tasks_and_urgencies(tmp_path: Path) -> None:
    fitting = {
        'label = ["Nodule"]': {"both"},
        'label = ["Bacterial", "Viral"]': {"viral"},
        'urgency = ["urgent"]': {"both", "pneumonia"},
        'task = ["chest-findings"]': {"both", "sure", "clear"},
        'task = ["of-others"]\nlabel = ["Whatever"]': set[str](),
    }
    for text, expected in fitting.items():
        rule = rules_in(tmp_path, text)
        assert {each.upload.key for each in ALL if rule.is_about(each)} == expected, text
    for text in ('label = ["Nodul"]', 'task = ["pneumonia"]\nlabel = ["Viral"]', 'urgency = ["high"]', "task = [1]"):
        with pytest.raises(SettingsError, match=r"line [34]: (label|urgency|task)"):
            rules_in(tmp_path, text)
    by_default = [{each.upload.key for each in ALL if rule.is_about(each)} for rule in DEFAULT]
    assert by_default == [{"pneumonia"}, {"both"}]


def test_a_long_label_is_kept_whole(database: Database) -> None:
    first, effusion, *others = MANY.findings
    tube = effusion.model_copy(update={"label": "Endotracheal tube too deep"})
    long = MANY.model_copy(update={"name": "tubes", "findings": (first, tube, *others)})
    ingest(database, several(9, {"EFFUSION": 0.9}, long, key="tube"))
    with database.reading() as session:
        (entry,) = [each for each in entries.page(session, Filter(view="all")).entries if each.key == "tube"]
    assert isinstance(entry, WorklistEntry)
    assert entry.label == "Endotracheal tube too deep"


def test_readings_of_many_findings_are_exported_as_a_table(tmp_path: Path) -> None:
    """The export is a data set of the task: reading it gives the reader's findings."""
    buckets = ("xray-uploads", "lungline-results")
    task = new_task("chest-findings", "many-at-once")
    terms = terms_of(task)
    with running_store(tmp_path, *buckets) as store, closing(Database.open(home(tmp_path))) as database:
        for number in range(2):
            key = f"ward/xray-{number}.jpeg"
            etag = store.put("xray-uploads", key, b"film %d" % number)
            result = several(number, {"FIRST": 0.9}, terms, key=key, etag=etag)
            ingest(database, result)
            with database.writing() as session:
                entry = entries.find(session, result.upload.identity)
                assert entry
                said = terms.presences_of(["FIRST", "SECOND"][number:])
                readings.read(session, entry, reader="r", action="corrected", verdict="Second", findings=said)
        images = ImageRenderer(store, Settings(home=tmp_path))
        done = export_feedback(database, images, tmp_path / "out", "me", task=task)
        assert retrain_check(database, 1, task).labels == 2
    assert done.images == 2
    tabled = read_tables(FolderSource(tmp_path / "out", 1000), task, only_split="train")
    assert tabled is not None
    assert sorted(example.label for example in tabled.examples) == [0b10, 0b11]
