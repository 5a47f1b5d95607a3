"""The audit log knows every look, names nobody's patient, and shows when somebody changed it; odd times hide no row."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select, text

from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY
from tests.support.worklist_browser import upload
from tests.support.worklist_site import Site, home, record, running_site, wait
from tests.test_worklist_store import undo_tasks
from worklist import commands
from worklist.database import audit
from worklist.database.audit import Anchor, Verification
from worklist.database.ingest import ingest
from worklist.database.models import Audit
from worklist.database.session import Database

RESULTS = "lungline-results"


@pytest.fixture
def site(tmp_path: Path, store: Storage) -> Iterator[Site]:
    with running_site(home(tmp_path), store) as site:
        yield site


@pytest.fixture(autouse=True)
def forgotten(store: Storage) -> None:
    """The store's anchors of other tests."""
    for info in list(store.list(RESULTS, audit.PREFIX)):
        store.delete(RESULTS, info.key)


def looks(site: Site) -> list[tuple[str, str, str | None, str]]:
    with site.database.reading() as session:
        lines = session.scalars(select(Audit).order_by(Audit.number))
        return [(line.who, line.act, line.identity, line.detail) for line in lines]


def test_every_look_is_in_the_log(site: Site, store: Storage) -> None:
    """Once in a while of the same session, and again of another; also of what the browser has already."""
    result = upload(store, 1, key="ward/Doe-Jane.jpeg")
    identity = result.upload.identity
    site.send(result)
    with site.client("reader") as client, site.client("reader", "dr.bell") as other:
        for _ in range(2):
            for path in ("/", "/rows?q=Doe-Jane&view=all", "/aside", "/notices", f"/x/{identity}"):
                assert client.get(path).status_code == 200
            for kind in ("xray", "thumb", "heat"):
                assert client.get(f"/x/{identity}/{kind}").status_code == 200
        etag = client.get(f"/x/{identity}/xray").headers["etag"]
        cached = other.get(f"/x/{identity}/xray", headers={"if-none-match": etag})
        assert cached.status_code == 304
        with other.stream("GET", "/live?label=Pneumonia") as stream:
            next(stream.iter_lines())
    term = hashlib.sha256(b"Doe-Jane").hexdigest()[:16]
    assert looks(site) == [
        ("dr.adams", "signed in", None, ""),
        ("dr.bell", "signed in", None, ""),
        ("dr.adams", "listed", None, "view unread"),
        ("dr.adams", "searched", None, f"view all, search sha256:{term}"),
        ("dr.adams", "listed", None, "overview"),
        ("dr.adams", "listed", None, "notices"),
        ("dr.adams", "opened", identity, ""),
        ("dr.adams", "saw the X-ray", identity, ""),
        ("dr.adams", "saw the thumbnail", identity, ""),
        ("dr.adams", "saw the heatmap", identity, ""),
        ("dr.adams", "opened", identity, ""),
        ("dr.bell", "saw the X-ray", identity, ""),
        ("dr.bell", "listed", None, "view unread, label Pneumonia"),
    ]


def test_nothing_is_shown_that_cannot_be_logged(site: Site, store: Storage) -> None:
    result = upload(store, 2)
    site.send(result)
    with site.client("reader") as client:
        with site.database.writing() as session:
            session.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
        for path in ("/", f"/x/{result.upload.identity}/thumb"):
            answer = client.get(path)
            assert answer.status_code >= 500
            assert "xray-2" not in answer.text


def verified(site: Site, store: Storage) -> Verification:
    return audit.verify(site.database, store, RESULTS)


def test_changes_of_the_log_are_told(site: Site, store: Storage) -> None:
    for number in range(5):
        site.access.begin(f"dr.{number}", "reader")
    assert (verified(site, store).entries, verified(site, store).problems) == (5, ())
    for change, problem in (
        ("UPDATE audit SET who = 'dr.evil' WHERE number = 3", "Entry 3 does not follow"),
        ("UPDATE audit SET who = 'dr.2', act = 'opened' WHERE number = 3", "Entry 3 does not follow"),
        ("UPDATE audit SET act = 'signed in', at = at - 1 WHERE number = 3", "Entry 3 does not follow"),
        ("UPDATE audit SET at = at + 1 WHERE number = 3", None),
        ("DELETE FROM audit WHERE number = 2", "Entry 3 does not follow"),
    ):
        with site.database.writing() as session:
            session.execute(text(change))
        problems = verified(site, store).problems
        # The worklist itself may have kept an anchor in the meantime, which then says that something is wrong too.
        assert any(sentence.startswith(problem) for sentence in problems) if problem else problems == ()


def test_a_log_that_was_cut_or_made_anew_is_told(site: Site, store: Storage) -> None:
    """The store knows the last entry of each day."""
    for number in range(3):
        site.access.begin(f"dr.{number}", "reader")
    (info,) = wait(lambda: list(store.list(RESULTS, audit.PREFIX)))
    last = Anchor.model_validate_json(store.get(RESULTS, info.key).data).number
    store.put(RESULTS, f"{audit.PREFIX}foreign.json", b"{")
    assert verified(site, store) == Verification(3, 1, ())
    with site.database.writing() as session:
        session.execute(text(f"DELETE FROM audit WHERE number >= {last}"))
    (problem,) = verified(site, store).problems
    assert problem.startswith(f"Entry {last}, which the store knows of")
    for number in range(3):
        site.access.begin(f"dr.evil{number}", "reader")
    (problem,) = verified(site, store).problems
    assert problem.startswith((f"Entry {last} is not the one", f"Entry {last}, which the store knows"))


def test_command_verifies_the_log(tmp_path: Path, store: Storage) -> None:
    connection = {"s3_endpoint": store.endpoint, "s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY}
    settings = Settings.model_validate(connection | {"home": tmp_path / "home"})
    commands.login_url(settings)
    commands.export_results(settings, "csv", tmp_path / "a.csv")
    assert not commands.verify_audit(settings).problems


ABSURD = {"the year 0": -62_135_640_000_000_000, "the year 9999": 253_402_300_799_000_000, "far": 2**62}


@pytest.mark.parametrize("column", ["arrived", "done"])
@pytest.mark.parametrize("value", ABSURD.values(), ids=ABSURD)
def test_an_odd_time_hides_no_row(site: Site, store: Storage, column: str, value: int) -> None:
    """In a database that has one, from whatever release."""
    results = [upload(store, 30 + number) for number in range(3)]
    for result in results:
        site.send(result)
    with site.database.writing() as session:
        odd = {"value": value, "identity": results[0].upload.identity}
        session.execute(text(f"UPDATE entries SET {column} = :value WHERE identity = :identity"), odd)
        session.execute(text("UPDATE records SET done = :value WHERE identity = :identity"), odd)
    with site.client() as client:
        for path in ("/?view=all", "/rows?view=all&sort=newest", "/aside", "/export.csv"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            if path != "/aside":
                assert all(f"xray-{30 + number}" in answer.text for number in range(3)), path
        for result in results:
            assert client.get(f"/x/{result.upload.identity}?view=all").status_code == 200


def test_upgrade_chains_the_log_and_mends_odd_times(tmp_path: Path, store: Storage) -> None:
    """Of a home that the release before has written."""
    settings = Settings(home=tmp_path)
    with closing(Database.open(settings)) as database:
        ingest(database, record(1), record(2))
        with database.writing() as session:
            for number in range(3):
                audit.record(session, f"dr.{number}", "reader", "opened")
    with closing(sqlite3.connect(tmp_path / "worklist/worklist.db", isolation_level=None)) as connection:
        undo_tasks(connection)
        for table in ("patients", "deliveries"):
            connection.execute(f"DROP TABLE {table}")
        for table, column in (("audit", "hash"), ("tokens", "patients"), ("sessions", "patients")):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE entries SET arrived = ? WHERE number = 1", [ABSURD["the year 0"]])
        connection.execute("UPDATE entries SET done = ? WHERE number = 2", [ABSURD["the year 9999"]])
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
    with closing(Database.open(settings)) as database:
        assert audit.verify(database, store, RESULTS) == Verification(3, 0, ())
        with database.reading() as session:
            years = session.execute(text("SELECT MIN(arrived), MAX(done) FROM entries")).one()
    assert years[0] > 0
    assert years[1] < ABSURD["the year 9999"] / 2


def test_the_log_goes_out_as_fhir_audit_events(site: Site, store: Storage, tmp_path: Path) -> None:
    """Every act as an event of R4, validated, with user, upload and the hash of its entry; nobody's key."""
    result = upload(store, 7, key="ward/Doe-Jane.jpeg")
    site.send(result)
    with site.client("reader") as client:
        client.get(f"/x/{result.upload.identity}")
        client.get("/rows?q=Doe-Jane&view=all")
        site.submit_reading(client, result.upload.identity, "confirmed")
    path = tmp_path / "audit.ndjson"
    number = commands.export_audit(site.settings, path)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == number > 3
    assert "Doe-Jane" not in path.read_text()
    with site.database.reading() as session:
        entries = audit.lines(session)[::-1]
    for event, entry in zip(events, entries, strict=True):
        assert event["resourceType"] == "AuditEvent"
        assert {"type", "recorded", "agent", "source"} <= event.keys()
        assert datetime.fromisoformat(event["recorded"]) == entry.at
        assert event["agent"][0]["altId"] == entry.who
        assert {"type": "hash", "valueString": entry.hash} in event["entity"][0]["detail"]
        assert event["entity"][0].get("what", {}).get("identifier", {}).get("value") == entry.identity
    acts = {event["subtype"][0]["code"]: (event["type"]["code"], event["action"]) for event in events}
    assert acts["confirmed"] == ("110110", "U")
    assert acts["opened"] == ("110103", "R")
    assert acts["searched"] == ("110112", "E")
    assert acts["exported"] == ("110106", "R")
