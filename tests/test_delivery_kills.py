"""Killed worklists and lost databases: each destination has each result, and no result twice."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from laptop.services.service import base_environment, settings_environment
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_results import await_state, deliveries_of, delivering, judged, states, store_of_results
from tests.support.fhir_server import FhirServer, running_fhir_server
from tests.support.hl7_receiver import running_receiver
from tests.support.object_store import ACCESS_KEY, SECRET_KEY
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.worklist_site import Site, home, running_site, wait
from worklist.commands import rebuild_worklist
from worklist.database import delivered
from worklist.database.ingest import ingest
from worklist.database.models import Audit, Delivery
from worklist.database.rebuild import Restoration
from worklist.database.session import Database
from worklist.destinations import load_destinations

SR, CAPTURE = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
RESULTS, KILLS = 12, 3
TOKEN = "secret-of-the-tests"


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with store_of_results(tmp_path_factory.mktemp("store")) as storage:
        yield storage


def c_store(port: int) -> str:
    head = '[[destination]]\nname = "pacs"\nkind = "c-store"\nhost = "127.0.0.1"\n'
    return f'{head}port = {port}\ncalled_title = "ORTHANC"\n'


def fhir(url: str, folder: Path) -> str:
    (folder / "token").write_text(TOKEN)
    return f'[[destination]]\nname = "records"\nkind = "fhir"\nurl = "{url}"\ntoken = {{file = "{folder}/token"}}\n'


def hl7(port: int, more: str = "", name: str = "engine") -> str:
    return f'[[destination]]\nname = "{name}"\nkind = "hl7"\nhost = "127.0.0.1"\nport = {port}\n{more}'


def process_settings(folder: Path, store: Storage, text: str) -> Settings:
    """Settings for a worklist in a process of its own."""
    (folder / "destinations.toml").write_text(text)
    keys = {"s3_access_key": SecretStr(ACCESS_KEY), "s3_secret_key": SecretStr(SECRET_KEY)}
    ours = home(folder, destinations=folder / "destinations.toml")
    return ours.model_copy(update={"s3_endpoint": store.endpoint} | keys)


@contextmanager
def killed_worklist(settings: Settings, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worklist that dies by SIGKILL at the end of the context."""
    command = [sys.executable, "-P", "-m", "worklist", "--http_port", "0"]
    environment = base_environment() | settings_environment(settings)
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def stored(store: Storage, result: ResultRecord) -> ResultRecord:
    store.put("lungline-results", result.key, result.model_dump_json().encode())
    return result


def unsent(database: Database) -> int:
    with database.reading() as session:
        rows = session.scalars(select(Delivery.state)).all()
    return sum(state != "sent" for state in rows)


def hasten_claims(database: Database) -> int:
    """Make due at once what a killed process had claimed, which would be due after five minutes; returns how many."""
    with database.writing() as session:
        claimed = update(Delivery).where(Delivery.state == "sending").values(due=Delivery.created)
        return len(session.scalars(claimed.returning(Delivery.number)).all())


def test_killed_worklists_lose_nothing_and_send_nothing_twice(tmp_path: Path, own_store: Storage) -> None:
    """Killed at random moments of its deliveries to a PACS and a FHIR server, of a seed that the failure shows."""
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    with running_orthanc(tmp_path / "pacs") as pacs, running_fhir_server(TOKEN) as server:
        settings = process_settings(tmp_path, own_store, c_store(pacs.dicom_port) + fhir(server.url, tmp_path))
        destinations = load_destinations(settings.worklist.destinations)
        results = [stored(own_store, judged(own_store, number)) for number in range(RESULTS)]
        with closing(Database.open(settings)) as database:
            ingest(database, *results, destinations=destinations)
            interrupted = 0
            for _ in range(KILLS):
                before = unsent(database)
                with killed_worklist(settings, tmp_path) as process:
                    wait(
                        lambda process=process, before=before: process.poll() is not None or unsent(database) < before,
                        60,
                    )
                    assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                    time.sleep(moments.uniform(0, 0.1))
                interrupted += hasten_claims(database)
            assert interrupted > 0, "no kill came in the middle of a delivery"
            with killed_worklist(settings, tmp_path):
                wait(lambda: unsent(database) == 0, 120)
        assert_once(pacs, server, results, seed)


def assert_once(pacs: Orthanc, server: FhirServer, results: Sequence[ResultRecord], seed: int) -> None:
    classes = Counter(each["SOPClassUID"] for each in pacs.instances())
    assert classes == {SR: len(results), CAPTURE: len(results)}, seed
    reports = Counter(each["identifier"][0]["value"] for each in server.resources["DiagnosticReport"])
    assert reports == {f"{result.id}/preliminary": 1 for result in results}, seed


def test_rebuilt_list_sends_only_what_was_not_sent(tmp_path: Path, own_store: Storage) -> None:
    """And later verdicts follow to who had a result before its database was lost."""
    with running_receiver(*["AA"] * 2, *["AR"] * 99, messages=9) as receiver:
        with delivering(tmp_path / "1", own_store, hl7(receiver.port)) as site:
            wait(lambda: kept(own_store, "destinations/"))
            first, second, waiting = (judged(own_store, number) for number in range(100, 103))
            for result in (first, second):
                site.send(result)
                await_state(site, "sent", result)
            wait(lambda: sum("/engine/" in key for key, _ in kept(own_store, delivered.PREFIX)) == 2)
            site.send(waiting)
            wait(lambda: any(each.error for each in deliveries_of(site, waiting)))
        before = set(receiver.control_ids[:2])
        receiver.answers.clear()
        with restoring(tmp_path / "2", own_store, hl7(receiver.port)) as site, site.client() as client:
            await_state(site, "sent", first, second, waiting)
            assert [receiver.control_ids.count(each) for each in before] == [1, 1]
            site.submit_reading(client, first.upload.identity, "Normal")
            wait(lambda: "|RAD|F" in receiver.messages[-1].to_er7())
            with site.database.reading() as session:
                detail = session.scalar(select(Audit.detail).where(Audit.act == "restored")) or ""
            assert "deliveries made before, 1 due" in detail


def test_changed_rule_sends_nothing_of_before_when_rebuilt(tmp_path: Path, own_store: Storage) -> None:
    """Nor does a rule that the file has not named since."""
    with running_receiver() as receiver:
        with delivering(tmp_path / "1", own_store, hl7(receiver.port, "risk = 0.95", "strict")) as site:
            wait(lambda: kept(own_store, "destinations/strict"))
            result = judged(own_store, 110, 0.9)
            site.send(result)
        others = hl7(receiver.port, "risk = 0.95", "others")
        texts = (hl7(receiver.port, "risk = 0.5", "strict"), others, hl7(receiver.port, "risk = 0.95", "strict"))
        for number, text in enumerate(texts):
            before = kept(own_store, "destinations/strict")
            with restoring(tmp_path / f"{number}x", own_store, text) as site:
                wait(lambda before=before: kept(own_store, "destinations/strict") != before)
                assert states(site, result) == {}
        assert receiver.messages == []


def test_backup_of_the_database_learns_what_was_sent_since(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver() as receiver:
        settings = process_settings(tmp_path, own_store, hl7(receiver.port, name="late"))
        result = stored(own_store, judged(own_store, 120))
        with closing(Database.open(settings)) as database:
            ingest(database, result, destinations=load_destinations(settings.worklist.destinations))
            backup = (settings.home / "worklist/worklist.db").read_bytes()
        with delivering(tmp_path, own_store, hl7(receiver.port, name="late")) as site:
            await_state(site, "sent", result)
            wait(lambda: kept(own_store, f"{delivered.PREFIX}{result.upload.identity[:2]}/{result.upload.identity}/"))
        for path in (settings.home / "worklist").glob("worklist.db*"):
            path.unlink()
        (settings.home / "worklist/worklist.db").write_bytes(backup)
        assert rebuild_worklist(settings).delivered >= 1
        with delivering(tmp_path, own_store, hl7(receiver.port, name="late")) as site:
            assert states(site, result) == {"late": "sent"}
        assert len(receiver.messages) == 1


def test_restoration_that_was_killed_goes_on(
    tmp_path: Path, own_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is not empty any longer is not whole yet."""
    stored(own_store, judged(own_store, 130))
    settings = home(tmp_path)
    with closing(Database.open(settings)) as database:
        restoration = Restoration.of(database)
        with monkeypatch.context() as patched:
            patched.setattr("worklist.database.rebuild.readings.restore", dies)
            patched.setattr("worklist.database.delivered.queue_missing", dies)
            with pytest.raises(KeyboardInterrupt):
                restoration.restore(database, own_store, settings)
        assert Restoration.of(database).needed
        assert Restoration.of(database).restore(database, own_store, settings)
        assert not Restoration.of(database).needed


def dies(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def restoring(folder: Path, store: Storage, text: str) -> Iterator[Site]:
    """A worklist with an empty database, which it restores."""
    folder.mkdir()
    (folder / "destinations.toml").write_text(text)
    with running_site(home(folder, destinations=folder / "destinations.toml"), store, restore=True) as site:
        wait(lambda: not site.app.state.worklist.restoration.needed)
        yield site


def kept(store: Storage, prefix: str) -> list[tuple[str, str]]:
    return [(info.key, info.etag) for info in store.list("lungline-results", prefix)]
